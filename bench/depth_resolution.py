"""Blocks and input resolutions in plans: what they keep, and how well they are predicted.

    python -m bench.depth_resolution                     # blocks of resnet101, resolutions of resnet18
    python -m bench.depth_resolution --depth-models resnet101 --depth-share 0.15 --resolution-models ""

*Blocks.* For each model, the best plan of widths alone and the best one that may also leave out residual
blocks, for the same budget on the same table; the second is then cut, verified against the masked
original, compiled (its outputs compared with PyTorch's) and timed end to end against its budget.

*Resolutions.* For each model and each input resolution, the best plan of widths for ``--shares`` of the
dense latency at the model's own resolution; its predicted latency, from the residual of the dense network
at its own resolution alone, against the measured one, before anything is corrected.

Weights are random; the filters of every convolution are scaled by gamma distributed factors, the
BatchNorms by such factors of a size of their own, so that importance is spread as unevenly as in trained
networks. Widths alone and blocks are compared on one problem: the same table, residual, budget and scores.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import hwprune
from bench.common import Teller, say, write_result
from bench.cpu_models import make
from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.errors import BudgetError
from hwprune.importance import score, to_objective
from hwprune.planner.loop import PlanningLoop
from hwprune.planner.options import PlanOptions
from hwprune.planner.resolutions import open_columns
from hwprune.planner.workbench import Workbench, measure_profile
from hwprune.solve.problem import Problem
from hwprune.solve.solvers import solve
from hwprune.target import load_target


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--depth-models", default="resnet101")
    parser.add_argument("--depth-share", type=float, default=0.15)
    parser.add_argument("--resolution-models", default="resnet18")
    parser.add_argument("--resolutions", default="224,192,160,128")
    parser.add_argument("--shares", default="0.5,0.3")
    parser.add_argument("--target", default="host")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--tables", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/depth_resolution.json"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in filter(None, options.resolution_models.split(",")):
        rows += at_resolutions(name, options)
    for name in filter(None, options.depth_models.split(",")):
        rows.append(with_blocks(name, options))
    write_result(options.out, summary(rows), rows, as_json=options.json)


def spread(name: str, seed: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A model whose filters differ in weight, and whose BatchNorms differ in scale, as those of blocks do."""
    model, inputs = make(name, seed)
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                factors = random.gamma(
                    random.uniform(0.5, 2.0), random.lognormal(0.0, 1.0), module.num_features
                )
                module.weight *= torch.from_numpy(factors).float()
            if isinstance(module, nn.Conv2d):
                factors = random.gamma(random.uniform(0.5, 2.0), 1.0, module.out_channels)
                module.weight *= torch.from_numpy(factors).float().reshape(-1, 1, 1, 1)
    return model, inputs


def with_blocks(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Kept importance with and without the choice of blocks; the plan with blocks put to the test."""
    model, inputs = spread(name, options.seed)
    ask: dict[str, Any] = {
        "latency": options.depth_share,
        "criterion": "bn_scale",
        "profile": options.profile,
        "tables": options.tables,
        "threads": options.threads,
        "seed": options.seed,
        "progress": Teller(name),
    }
    row: dict[str, Any] = {"model": name, "share": options.depth_share}
    planned = hwprune.plan(model, inputs, options.target, options=PlanOptions(depth=True), **ask)
    result = planned.loop
    try:
        row["kept_widths_alone"] = solve(widths_alone(result.problem), time_limit_s=60.0).value
    except BudgetError as error:
        row["widths_alone"] = error.message
    say(f"{name}: {len(planned.plan.removed)} blocks go, {result.measured_ns} ns of {result.budget_ns}")
    pruned = planned.subject.cut(planned.plan, planned)
    target = load_target(options.target, threads=options.threads)
    hwprune.compile(pruned.model, inputs, target, search=False)
    return row | {
        "kept_with_blocks": planned.plan.value,
        "removed_blocks": sorted(planned.plan.removed),
        "gap": planned.plan.gap,
        "verified_to": pruned.max_rel_error,
        "budget_ms": result.budget_ns / 1e6,
        "predicted_ms": result.predicted_ns / 1e6,
        "measured_ms": None if result.measured_ns is None else result.measured_ns / 1e6,
        "rounds": [[r.predicted_ns / 1e6, r.measured_ns / 1e6] for r in result.rounds],
    }


def widths_alone(problem: Problem) -> Problem:
    """The same problem, but all blocks stay."""
    return replace(
        problem,
        domains=tuple(replace(d, block=None) for d in problem.domains),
        limits=tuple(
            replace(limit, terms=tuple(replace(t, block=None) for t in limit.terms))
            for limit in problem.limits
        ),
        blocks=(),
        constant_value=problem.constant_value + sum(block.value for block in problem.blocks),
    )


def at_resolutions(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per resolution and share."""
    model, inputs = spread(name, options.seed)
    captured = capture(model, inputs)
    deps = analyse(captured)
    bench = Workbench.open(
        captured,
        deps,
        load_target(options.target, threads=options.threads),
        profile=measure_profile(options.profile),
        tables=options.tables,
        seed=options.seed,
        untrusted=True,
        progress=Teller(name),
    )
    scores = to_objective(score(captured, deps, criterion="l2"), hwprune.importance.get("l2").comparability)
    rows: list[dict[str, Any]] = []
    for column in open_columns(bench, [int(s) for s in options.resolutions.split(",")], analyse):
        for share in map(float, options.shares.split(",")):
            loop = PlanningLoop(
                bench,
                scores,
                profile=bench.measure_kernels,
                time_networks=bench.time_networks,
                columns=(column,),
                known=bench.known_table(),
            )
            side = column.resolution or tuple(inputs[0].shape[2:])
            row: dict[str, Any] = {"model": name, "resolution": list(side), "share": share}
            try:
                first = loop.run(share, checks=1).rounds[0]
            except BudgetError as error:
                row["failure"] = error.message
            else:
                row |= {"predicted_ms": first.predicted_ns / 1e6, "measured_ms": first.measured_ns / 1e6}
                row["error"] = first.predicted_ns / first.measured_ns - 1
                say(f"{name} at {side}, {share:.0%}: {row['measured_ms']:.3f} ms, {row['error']:+.1%}")
            rows.append(row)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that count."""
    errors = [abs(r["error"]) for r in rows if "error" in r]
    blocks = [r for r in rows if "removed_blocks" in r]
    return {
        "resolution_plans": len(errors),
        "resolution_error_max": max(errors, default=None),
        "kept_with_blocks_over_widths": {
            r["model"]: r["kept_with_blocks"] / r["kept_widths_alone"] if "kept_widths_alone" in r else None
            for r in blocks
        },
        "measured_over_budget": {
            r["model"]: r["measured_ms"] / r["budget_ms"] if r["measured_ms"] else None for r in blocks
        },
        "removed_blocks": {r["model"]: len(r["removed_blocks"]) for r in blocks},
    }


if __name__ == "__main__":
    main()
