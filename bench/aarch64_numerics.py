"""Kernels and whole networks for aarch64 by emulation: numerics, and instructions by block size.

Counts are exact and are no times: they rank widths within one schedule, not schedules.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import geomean, torchvision_models, write_result
from hwprune.capture import capture
from hwprune.compile.adapt import adapt
from hwprune.compile.layout import input_layouts, output_shape
from hwprune.compile.primfunc import kernel_symbol
from hwprune.latency.fusion import fuse
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Program
from hwprune.target import Target, load_target
from tests.compile.aarch64_emulator import Emulator
from tests.compile.aarch64_kernels import build_kernels, run_kernel
from tests.compile.programs import data, net_input, op, relative_error
from tests.compile.test_kernels import conv, depthwise, linear, pool, residual, unary

BASE = "aarch64-cortex-a72"
RELU = (op("relu", 3),)
KERNELS: tuple[KernelSpec, ...] = (
    conv(1, 3, 112, 112, 32, 3, s=2, source=net_input, tail=RELU),
    conv(1, 64, 28, 28, 64, 3, tail=RELU),
    conv(1, 128, 14, 14, 128, 3, tail=RELU),
    conv(1, 256, 7, 7, 256, 3, tail=RELU),
    conv(1, 64, 28, 28, 256, 1),
    conv(1, 256, 14, 14, 64, 1, tail=RELU),
    conv(1, 512, 7, 7, 128, 1, tail=RELU),
    conv(1, 60, 28, 28, 60, 3, tail=RELU),
    conv(1, 60, 14, 14, 100, 1),
    residual(64, 64, 14),
    depthwise(1, 96, 28, 28, 3, tail=(op("clamp", 3, min=0.0, max=6.0),)),
    depthwise(1, 92, 28, 28, 3, s=2),
    depthwise(1, 96, 14, 14, 5, tail=(op("hardswish", 3),)),
    linear(1, 512, 1000),
    pool("max_pool2d", (1, 64, 56, 56), 3, 2, 1),
    pool("avg_pool2d", (1, 64, 28, 28), 2, 2, 0),
    unary("mean_hw", 1, 512, 7, 7, keepdim=0),
    KernelSpec((data(1, 64, 28, 28), data(1, 64, 28, 28)), (op("add", 0, 1), op("relu", 2))),
    unary("silu", 1, 64, 28, 28),
)


def targets() -> dict[int, Target]:
    """The target with blocks of four and of eight channels."""
    base = load_target(BASE)
    return {4: base, 8: base.model_copy(update={"isa": "neon8"})}


def network(name: str, size: int) -> tuple[Program, np.ndarray, np.ndarray]:
    """A torchvision model as a program, an input, and its output in float64."""
    torch.manual_seed(0)
    model = torchvision_models().get_model(name, weights=None).eval()
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = model.double()(x.double()).numpy()
    captured = capture(model.float(), (x,))
    return fuse(captured.graph).program(), x.numpy(), expected


def run_network(program: Program, target: Target, x: np.ndarray, path: Path) -> tuple[np.ndarray, int]:
    """Output of a program whose kernels are emulated one after the other, and all instructions."""
    program = adapt(program)
    emulator: Emulator = build_kernels(list(dict.fromkeys(step.spec for step in program.steps)), target, path)
    results: list[np.ndarray] = []
    total = 0
    for step in program.steps:
        arrays: list[np.ndarray] = []
        for layout, source in zip(input_layouts(step.spec, target), step.sources, strict=True):
            if source.kind == "weight":
                arrays.append(layout.pack(program.weights[source.index]))
            else:
                arrays.append(x if source.kind == "input" else results[source.index])
        shape = output_shape(step.spec, target)
        result, counts = emulator.call(kernel_symbol(step.spec), arrays, shape, count=True)
        assert counts is not None
        results.append(result)
        total += counts.total
    return results[program.outputs[0].index], total


def kernel_rows(folder: Path) -> list[dict[str, Any]]:
    """One row a kernel."""
    rows: list[dict[str, Any]] = [{"what": spec.label()} for spec in KERNELS]
    for block, target in targets().items():
        emulator = build_kernels(KERNELS, target, folder / f"{block}.so")
        for row, spec in zip(rows, KERNELS, strict=True):
            error, counts = run_kernel(emulator, spec, target, count=True)
            assert counts is not None
            row[f"instructions_{block}"] = counts.total
            row[f"multiply_adds_{block}"] = counts.multiply_adds
            row[f"memory_{block}"] = counts.memory
            row[f"error_{block}"] = error
    return rows


def network_rows(names: Sequence[str], size: int, folder: Path) -> list[dict[str, Any]]:
    """One row a network."""
    rows: list[dict[str, Any]] = []
    for name in names:
        program, x, expected = network(name, size)
        row: dict[str, Any] = {"what": f"{name} at {size}x{size}"}
        for block, target in targets().items():
            result, total = run_network(program, target, x, folder / f"{name}{block}.so")
            row[f"instructions_{block}"] = total
            row[f"error_{block}"] = relative_error(result, expected)
        rows.append(row)
    return rows


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="resnet18,mobilenet_v2")
    parser.add_argument("--size", type=int, default=64, help="height and width of the networks' input")
    parser.add_argument("--out", type=Path, default=Path("bench/results/aarch64_numerics.json"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="hwprune-") as scratch:
        folder = Path(scratch)
        rows = kernel_rows(folder)
        rows += network_rows([n for n in options.models.split(",") if n], options.size, folder)
    for row in rows:
        row["ratio_8_to_4"] = row["instructions_8"] / row["instructions_4"]
    summary = {
        "provenance": "emulated",
        "unit": "instructions",
        "target": BASE,
        "geomean_8_to_4": geomean([row["ratio_8_to_4"] for row in rows[: len(KERNELS)]]),
        "max_rel_error": max(max(row["error_4"], row["error_8"]) for row in rows),
    }
    write_result(options.out, summary, rows, as_json=options.json)


if __name__ == "__main__":
    main()
