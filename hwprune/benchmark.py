"""Time a bundle beside the dense model, PyTorch and the other backend."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwprune.delivery import compile_model
from hwprune.errors import HwpruneError
from hwprune.measure.compare import Comparison, compare
from hwprune.measure.contenders import Contender, bundle_contender
from hwprune.measure.peers import eager, onnx_runtime
from hwprune.measure.rpc_bench import bench_remote
from hwprune.measure.runners.rpc_address import RpcPlace, rpc_place
from hwprune.measure.stopping import MeasureProfile
from hwprune.onnx_backend.bundle import open_bundle
from hwprune.target import Target, load_target, require_runnable

#: Backends by the names they have in a comparison.
BACKEND_NAMES = {"tvm": "TVM", "onnxruntime": "ONNX Runtime"}
#: Name of the module that others are compared with.
PRUNED = "pruned (this bundle)"


def bench_bundle(
    directory: Path,
    *,
    dense: Path | None = None,
    models: Mapping[str, nn.Module] | None = None,
    inputs: Sequence[torch.Tensor] | None = None,
    profile: MeasureProfile,
    seed: int = 0,
    place: RpcPlace | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[Comparison, dict[str, str]]:
    """Time a bundle beside its dense counterpart, PyTorch eager and the other backend, interleaved.

    Parameters
    ----------
    directory
        The bundle.
    dense
        Bundle of the dense model.
    models
        ``"dense"`` and ``"pruned"`` (either may be missing): run by PyTorch, ONNX Runtime and, for a
        bundle of ONNX Runtime, compiled by TVM.
    inputs
        Inputs for all; default: normal random numbers of the bundle's shapes.
    place
        Devices to time the bundles on, over RPC. What runs by PyTorch or ONNX Runtime stays out then,
        but outputs are compared with PyTorch's. Default: this machine, or what the environment says
        for a target that needs a device.

    Returns
    -------
    tuple
        The comparison, and the reason for each engine that could not take part.

    Raises
    ------
    TargetError
        This machine lacks the instructions of a bundle: refused before anything is timed.
    """
    bundle = open_bundle(directory)
    target = bundle.manifest.target
    place = place or rpc_place(environment=target.runner == "rpc")
    if place is None:
        require_runnable(target)
    if inputs is None:
        generator = torch.Generator().manual_seed(seed)
        inputs = [torch.randn(info.shape, generator=generator) for info in bundle.manifest.inputs]
    if place is not None:
        bundles = {PRUNED: directory, **({"dense (TVM)": dense} if dense else {})}
        return bench_remote(bundles, models or {}, inputs, target, place, profile, seed, progress)
    contenders: dict[str, Contender] = {PRUNED: bundle_contender(directory)}
    absent: dict[str, str] = {}
    if dense is not None:
        other = open_bundle(dense).manifest.target
        require_runnable(other)
        contenders[f"dense ({BACKEND_NAMES[other.backend]})"] = bundle_contender(dense)
    with tempfile.TemporaryDirectory(prefix="hwprune-bench-") as scratch:
        for kind, model in (models or {}).items():
            for name, make in _engines(kind, target).items():
                try:
                    contenders[name] = make(model, inputs, Path(scratch) / name.replace(" ", "-"))
                except HwpruneError as error:
                    absent[name] = str(error)
        comparison = compare(
            contenders,
            [x.numpy() for x in inputs],
            threads=target.threads,
            profile=profile,
            seed=seed,
            reference=PRUNED,
            progress=progress,
        )
    return comparison, {**absent, **comparison.failed}


def _engines(
    kind: str, target: Target
) -> dict[str, Callable[[nn.Module, Sequence[torch.Tensor], Path], Contender]]:
    """Who runs a model beside a bundle for ``target``, without what the bundle itself is."""
    found: dict[str, Callable[[nn.Module, Sequence[torch.Tensor], Path], Contender]]
    found = {f"PyTorch eager {kind}": eager}
    if target.backend == "tvm" or kind == "dense":
        found[f"ONNX Runtime {kind}"] = onnx_runtime
    if target.backend != "tvm":
        found[f"TVM {kind}"] = partial(_tvm, threads=target.threads)
    return found


def _tvm(model: nn.Module, inputs: Sequence[torch.Tensor], stem: Path, threads: int) -> Contender:
    """The other backend, for a bundle of ONNX Runtime: compiled for this machine, which takes a while."""
    module, _ = compile_model(model, inputs, load_target("host", threads=threads))
    module.save(stem, {"for": "comparison"})
    return bundle_contender(stem)


def comparison_data(comparison: Comparison, absent: Mapping[str, str]) -> dict[str, Any]:
    """A comparison as JSON: milliseconds, intervals, ratios to the reference, raw samples."""
    return {
        "reference": comparison.reference,
        "threads": comparison.threads,
        "profile": comparison.profile,
        "seed": comparison.seed,
        "warnings": list(comparison.warnings),
        "absent": dict(absent),
        "rows": [
            {
                "name": s.name,
                "median_ms": s.summary.median / 1e6,
                "low_ms": s.summary.ci_low / 1e6,
                "high_ms": s.summary.ci_high / 1e6,
                "ratio": s.ratio.ratio,
                "ratio_low": s.ratio.low,
                "ratio_high": s.ratio.high,
                "max_rel_error": s.max_rel_error,
                "samples_ms": [round(x / 1e6, 6) for x in s.samples_ns],
            }
            for s in comparison.standings
        ],
    }
