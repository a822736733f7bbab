"""How far kernels timed alone by ONNX Runtime are from the networks that they are parts of.

``python -m bench.onnx_kernels`` times every fused kernel of torchvision models in two ways and the
whole networks in between. *Cut*: as the latency tables of the backend ``onnxruntime`` hold them, in
the layout that ONNX Runtime gives them inside a network. *Plain*: as graphs of their own, which ONNX
Runtime has to convert to blocks of channels and back. The nodes of the cut kernels are counted beside
those of the network, too. One thread; processor time of that thread, so that other programs on the
machine disturb little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.common import geomean, torchvision_models, write_result
from hwprune.capture import capture
from hwprune.latency.fusion import fuse
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Program
from hwprune.measure.rotation import copies_for
from hwprune.onnx_backend.export import program_model
from hwprune.onnx_backend.graph import hollow_weights
from hwprune.onnx_backend.kernel_model import build_kernel_model, build_program_model
from hwprune.onnx_backend.optimised import optimised_kernel, rewritten
from hwprune.onnx_backend.runner import OnnxRunner
from hwprune.onnx_backend.session import random_array
from hwprune.target import Target, load_target

RESULT = Path(__file__).parent / "results" / "onnx_kernels.json"
MODELS = ("resnet18", "resnet50", "mobilenet_v2", "densenet121", "efficientnet_b0", "regnet_y_400mf")
LAYOUT = ("ReorderInput", "ReorderOutput")
#: The network is timed again after so many kernels.
BATCH = 12


def main() -> None:
    """Command line: ``--models``, ``--size``, ``--seconds``, ``--seed``, ``--out``, ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="of torchvision")
    parser.add_argument("--size", type=int, default=224, help="rows and columns of the input")
    parser.add_argument("--seconds", type=float, default=0.15, help="of timing for a kernel in one way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--json", action="store_true", dest="as_json")
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    rows: list[dict[str, Any]] = []
    for name in given.models:
        rows.append(measured(name, given.size, given.seconds))
        last = name == given.models[-1]
        write_result(given.out, summary(rows), rows, as_json=given.as_json, quiet=not last)


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means over models, and the model that is furthest from 1, of both ways."""
    found: dict[str, Any] = {"models": len(rows)}
    for way in ("cut", "plain"):
        ratios = [row[f"network_over_{way}"] for row in rows]
        found[f"network_over_{way}"] = geomean(ratios)
        found[f"worst_{way}"] = max(ratios, key=lambda ratio: max(ratio, 1 / ratio))
    return found


def measured(name: str, size: int, seconds: float) -> dict[str, Any]:
    """One model's row: milliseconds of the network and of both sums, and counts of nodes."""
    target = load_target("host-onnxruntime", threads=1)
    model = getattr(torchvision_models(), name)().eval()
    program = fuse(capture(model, (torch.randn(1, 3, size, size),)).graph).program()
    with tempfile.TemporaryDirectory(prefix="hwprune-onnx-kernels-") as scratch:
        folder = Path(scratch)
        build_program_model(program, target, folder / "network.onnx")
        network = OnnxRunner(folder / "network.onnx")
        specs = list({step.spec: None for step in program.steps})
        cut, plain, whole = (
            dict[KernelSpec, float](),
            dict[KernelSpec, float](),
            [_time(network, 5 * seconds)],
        )
        for number, spec in enumerate(specs):
            cut[spec] = _kernel(spec, spec, target, folder, seconds)
            plain[spec] = _kernel(_plain(spec), spec, target, folder, seconds)
            if number % BATCH == BATCH - 1:
                whole.append(_time(network, 5 * seconds))
    network_ms = statistics.median(whole)
    cut_ms, plain_ms = (sum(found[step.spec] for step in program.steps) for found in (cut, plain))
    nodes, alone = _nodes(program)
    return {
        "model": name,
        "kernels": len(program.steps),
        "network_ms": network_ms,
        "cut_ms": cut_ms,
        "plain_ms": plain_ms,
        "network_over_cut": network_ms / cut_ms,
        "network_over_plain": network_ms / plain_ms,
        "nodes_network": nodes.total(),
        "nodes_cut": alone.total(),
        "layout_network": sum(nodes[kind] for kind in LAYOUT),
        "layout_cut": sum(alone[kind] for kind in LAYOUT),
    }


def _plain(spec: KernelSpec) -> KernelSpec:
    inputs = tuple(replace(i, role="input") if i.role == "data" else i for i in spec.inputs)
    return replace(spec, inputs=inputs, plain_output=True)


def _kernel(spec: KernelSpec, like: KernelSpec, target: Target, folder: Path, seconds: float) -> float:
    build_kernel_model(spec, target, folder / "kernel.onnx", copies_for(like))
    return _time(OnnxRunner(folder / "kernel.onnx"), seconds)


def _time(engine: OnnxRunner, seconds: float) -> float:
    """Milliseconds of processor time per call: what three in ten runs stay below."""
    samples: list[float] = []
    begin = time.perf_counter()
    engine.time(1, 1)
    while len(samples) < 7 or time.perf_counter() - begin < seconds:
        start = time.thread_time_ns()
        engine.time(1, 1)
        samples.append((time.thread_time_ns() - start) / engine.copies / 1e6)
    return statistics.quantiles(samples, n=10)[2]


def _nodes(program: Program) -> tuple[Counter[str], Counter[str]]:
    """Operators that ONNX Runtime executes: of the network, and of its kernels one by one."""
    model = program_model(program, weights_inside=False)
    values = {name: random_array(shape) for name, shape in hollow_weights(model).items()}
    whole = Counter(node.op_type for node in rewritten(model, values, 1).graph.node)
    known: dict[KernelSpec, Sequence[str]] = {}
    for step in program.steps:
        if step.spec not in known:
            known[step.spec] = [node.op_type for node in optimised_kernel(step.spec, 1).nodes]
    return whole, Counter(kind for step in program.steps for kind in known[step.spec])


if __name__ == "__main__":
    main()
