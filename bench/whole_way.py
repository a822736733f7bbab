"""The whole way on torchvision models with random weights at 224x224: budget kept, prediction, peers.

    python -m bench.whole_way --models resnet18,resnet50,vgg16_bn,mobilenet_v2 --latency 50%

Latencies are medians of one interleaved run per model: pruned and dense bundle, ONNX Runtime and
PyTorch eager on the same inputs and threads. ``achieved_over_budget`` is the pruned latency over
the asked share of the dense latency, both from that run; ``predicted_over_measured`` compares the
plan's prediction, as a share of the dense latency that it was made with, in the same way. Ratios
against ONNX Runtime are its time over ours: above 1, ours is quicker.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.common import geomean, torchvision_models, write_result
from hwprune import api
from hwprune.benchmark import PRUNED, bench_bundle
from hwprune.delivery import compile_model
from hwprune.planner.workbench import measure_profile
from hwprune.target import Target, load_target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="resnet18,resnet50,vgg16_bn,mobilenet_v2")
    parser.add_argument("--latency", default="50%")
    parser.add_argument("--target", default="host")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--profile", default="quick", help="care of the kernel measurements")
    parser.add_argument("--tables", type=Path, default=None, help="default: a new, empty directory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/whole_way.json"))
    options = parser.parse_args()
    target = load_target(options.target, threads=options.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="hwprune-whole-way-") as scratch:
        for name in options.models.split(","):
            tables = options.tables or Path(scratch) / "tables"
            rows.append(one_model(name, target, options, tables, Path(scratch) / name))
            write_result(options.out, summary(rows), rows, as_json=False) if not options.json else None
    write_result(options.out, summary(rows), rows, as_json=options.json)


def one_model(
    name: str, target: Target, options: argparse.Namespace, tables: Path, place: Path
) -> dict[str, Any]:
    """Plan, cut, compile and compare one model."""
    torch.manual_seed(options.seed)
    model: nn.Module = getattr(torchvision_models(), name)().eval()
    inputs = (torch.randn(1, 3, 224, 224),)
    profile_s = [0.0]
    last = [time.monotonic()]

    def progress(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what.startswith("profile"):
            profile_s[0] += min(now - last[0], 60.0)
        last[0] = now
        if done % 25 == 0:
            print(f"{name}: {what} {done}/{total}", file=sys.stderr)

    start = time.monotonic()
    planned = api.plan(
        model,
        inputs,
        target,
        options.latency,
        profile=options.profile,
        tables=tables,
        seed=options.seed,
        progress=progress,
    )
    plan_s = time.monotonic() - start
    pruned = api.apply_plan(model, inputs, planned.plan)
    start = time.monotonic()
    dense_module, dense_error = compile_model(model, inputs, target)
    compile_s = time.monotonic() - start
    dense_module.save(place / "dense", {})
    module, error = compile_model(pruned.model, inputs, target)
    module.save(place / "pruned", {})
    comparison, absent = bench_bundle(
        place / "pruned",
        dense=place / "dense",
        models={"dense": model, "pruned": pruned.model},
        inputs=inputs,
        profile=measure_profile("table"),
        seed=options.seed,
    )
    median = {s.name: s.summary.median / 1e6 for s in comparison.standings}
    ours, dense = median[PRUNED], median["dense (TVM)"]
    plan = planned.plan
    budget = dense * plan.budget_ns / plan.dense_ns
    predicted = dense * plan.predicted_ns / plan.dense_ns
    first = planned.loop.rounds[0]
    return {
        "model": name,
        "threads": target.threads,
        "dense_ms": dense,
        "pruned_ms": ours,
        "budget_ms": budget,
        "achieved_over_budget": ours / budget,
        "predicted_over_measured": predicted / ours,
        "first_predicted_over_measured": first.predicted_ns / first.measured_ns,
        "kernel_sum_over_dense": planned.loop.dense_sum_ns / planned.loop.dense.median,
        "rounds": len(planned.loop.rounds),
        "solve_s": plan.solve_seconds,
        "gap": plan.gap,
        "profile_s": profile_s[0],
        "plan_s": plan_s,
        "kernels": len(planned.loop.table),
        "compile_s": compile_s,
        "ort_dense_ms": median.get("ONNX Runtime dense"),
        "ort_pruned_ms": median.get("ONNX Runtime pruned"),
        "torch_dense_ms": median.get("PyTorch eager dense"),
        "torch_pruned_ms": median.get("PyTorch eager pruned"),
        "ort_over_ours_dense": _ratio(median.get("ONNX Runtime dense"), dense),
        "ort_over_ours_pruned": _ratio(median.get("ONNX Runtime pruned"), ours),
        "max_rel_error": max(error, dense_error, pruned.max_rel_error),
        "unaligned": sum(not g.aligned for g in plan.groups),
        "exempt": [f"{g.name}: {g.exempt}" for g in plan.groups if not g.aligned],
        "absent": [f"{engine}: {reason}" for engine, reason in absent.items()],
        "warnings": list(comparison.warnings),
        "samples_ms": {s.name: [round(x / 1e6, 4) for x in s.samples_ns] for s in comparison.standings},
    }


def _ratio(theirs: float | None, ours: float) -> float | None:
    return None if theirs is None else theirs / ours


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that the README quotes."""
    dense = [r["ort_over_ours_dense"] for r in rows if r["ort_over_ours_dense"]]
    pruned = [r["ort_over_ours_pruned"] for r in rows if r["ort_over_ours_pruned"]]
    return {
        "achieved_over_budget_max": max(r["achieved_over_budget"] for r in rows),
        "prediction_error_max": max(abs(r["predicted_over_measured"] - 1) for r in rows),
        "solve_s_max": max(r["solve_s"] for r in rows),
        "profile_s_max": max(r["profile_s"] for r in rows),
        "ratio_vs_ort_dense_geomean": geomean(dense) if dense else None,
        "ratio_vs_ort_pruned_geomean": geomean(pruned) if pruned else None,
    }


if __name__ == "__main__":
    main()
