"""The exact solver against greedy, knapsack and uniform widths, on measured tables.

    python -m bench.solver                              # all models, budgets of 75, 50, 30 and 15 %
    python -m bench.solver --models resnet50,swin_t --shares 0.5,0.3

For each model the kernels that the table lacks are measured (``--tables`` says where; with the table
that is shipped some models need none), the dense network is timed once, and every solver gets the same
problem: the same domains, costs, budgets and scores. Scores are made up (``--seed``; gamma distributed
with a shape of its own for every group, as trained networks have them: a few units that matter and many
that do not): what is judged is the search, not the criterion. ``kept_vs_*`` are ratios of kept
importance, at least 1 where the exact solver is never below the other; a method that finds nothing
within a budget has no ratio, and is counted.

A budget below what the network can reach at all is noted as such, with the least reachable share.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import Teller, say, torchvision_models, write_result
from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.errors import BudgetError
from hwprune.planner.loop import PlanningLoop
from hwprune.planner.problem import build_problem
from hwprune.planner.workbench import Workbench, measure_profile
from hwprune.planner.worth import Worth
from hwprune.solve.pareto import frontier, spread_budgets
from hwprune.solve.problem import Problem, Solution
from hwprune.solve.solvers import solve
from hwprune.target import load_target

MODELS = "resnet50,resnet101,mobilenet_v2,densenet121,efficientnet_b0,vit_b_16,swin_t"
SHARES = "0.75,0.5,0.3,0.15"
OTHERS = ("greedy", "knapsack", "uniform")
EXACT = "milp"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--shares", default=SHARES, help="budgets as shares of the dense latency")
    parser.add_argument("--target", default="host")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", default="quick", help="care of kernels that are not in the table yet")
    parser.add_argument("--tables", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=8, help="widths on offer per group")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds for the exact solver")
    parser.add_argument("--gap", type=float, default=1e-6, help="at which the exact solver may stop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frontier", default="resnet50", help="model whose frontier is traced")
    parser.add_argument("--points", type=int, default=12, help="points of the frontier")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/solver.json"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    traced: dict[str, Any] = {}
    for name in options.models.split(","):
        problem = measured_problem(name, options)
        if name == options.frontier:
            traced = trace(problem, options.points)
        for share in map(float, options.shares.split(",")):
            rows += compared(name, problem, share, options.time_limit, options.gap)
    if rows:
        write_result(options.out, summary(rows) | traced, rows, as_json=options.json)


def measured_problem(name: str, options: argparse.Namespace) -> Problem:
    """The problem of a model on the measured table, its budget the dense latency."""
    torch.manual_seed(options.seed)
    model = getattr(torchvision_models(), name)(weights=None).eval()
    captured = capture(model, (torch.zeros(1, 3, 224, 224),))
    bench = Workbench.open(
        captured,
        analyse(captured),
        load_target(options.target, threads=options.threads),
        profile=measure_profile(options.profile),
        steps=options.steps,
        tables=options.tables,
        seed=options.seed,
        untrusted=True,
        progress=Teller(name),
    )
    scores = made_up(bench.model.domains, options.seed)
    loop = PlanningLoop(
        bench,
        scores,
        profile=bench.measure_kernels,
        time_networks=bench.time_networks,
        known=bench.known_table(),
    )
    begin = time.monotonic()
    begun = loop.begin()
    say(f"{name}: kernels and dense network after {time.monotonic() - begin:.0f} s")
    worth = Worth.of_scores(scores, bench.model.domains)
    return build_problem(bench, worth, begun.table, begun.residual, begun.dense.median)


def made_up(domains: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Scores of all units; each group has a spread and a weight of its own."""
    random = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for group, widths in domains.items():
        shape, scale = random.uniform(0.3, 2.0), math.exp(random.normal(0.0, 0.7))
        found[group] = random.gamma(shape, scale, widths[-1])
    return found


def trace(problem: Problem, points: int) -> dict[str, Any]:
    """Seconds for plans at evenly spread budgets."""
    latency = problem.limits[0]
    begin = time.perf_counter()
    dense = problem.usage(latency, problem.dense)
    free = replace(problem, limits=(replace(latency, at_most=math.inf),), minimise=latency.name)
    budgets = spread_budgets(solve(free).latency_ns, dense, points)
    found = frontier(problem, budgets)
    seconds = time.perf_counter() - begin
    say(f"frontier of {len(found)} points in {seconds:.2f} s")
    return {
        "frontier_points": len(found),
        "frontier_s": seconds,
        "frontier_gap_max": max(s.gap for s in found),
    }


def compared(name: str, problem: Problem, share: float, limit_s: float, gap: float) -> list[dict[str, Any]]:
    """One row per solver."""
    latency = problem.limits[0]
    asked = replace(latency, at_most=share * problem.usage(latency, problem.dense))
    posed = replace(problem, limits=(asked, *problem.limits[1:]))
    rows: list[dict[str, Any]] = []
    for solver in (EXACT, *OTHERS):
        begin = time.perf_counter()
        row: dict[str, Any] = {"model": name, "share": share, "solver": solver}
        try:
            found: Solution = solve(posed, solver=solver, time_limit_s=limit_s, gap=gap)
        except BudgetError as error:
            row["failure"] = error.message
        else:
            row |= {"kept": found.value / posed.value(posed.dense), "gap": found.gap}
            row["used_share"] = found.latency_ns / posed.usage(asked, posed.dense)
            assert posed.keeps(found.choice), f"{solver} is above the budget"
        row["seconds"] = time.perf_counter() - begin
        rows.append(row)
        say(f"{name} {share:.0%} {solver}: {row.get('kept', row.get('failure'))} in {row['seconds']:.2f} s")
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Worst case of every figure, over all models and budgets."""
    by = {(r["model"], r["share"], r["solver"]): r for r in rows}
    exact = [r for r in rows if r["solver"] == EXACT]
    reached = [r for r in exact if "kept" in r]
    found: dict[str, Any] = {
        "cases": len(exact),
        "unreachable": [f"{r['model']} {r['share']:.0%}" for r in exact if "kept" not in r],
        "gap_max": max(r["gap"] for r in reached),
        "solve_s_max": max(r["seconds"] for r in exact),
        "solve_s_median": statistics.median(r["seconds"] for r in exact),
        "solve_s": {
            m: max(r["seconds"] for r in exact if r["model"] == m)
            for m in dict.fromkeys(r["model"] for r in rows)
        },
    }
    for other in OTHERS:
        against = [(r, by[r["model"], r["share"], other]) for r in reached]
        ratios = [a["kept"] / b["kept"] for a, b in against if "kept" in b]
        found[f"kept_vs_{other}_min"] = min(ratios, default=None)
        found[f"kept_vs_{other}_median"] = statistics.median(ratios) if ratios else None
        found[f"{other}_found_nothing"] = sum("kept" not in b for _, b in against)
    return found


if __name__ == "__main__":
    main()
