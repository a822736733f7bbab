"""Which sum over groups foretells the loss of a plan after fine-tuning? Random plans of one latency, ranked.

    python -m bench.surrogates --models separable,residual,plain --plans 24

A network of :mod:`bench.plan_accuracy_tasks` is trained on the synthetic task and cut to random plans
of the same latency (exact solutions for random objectives), which are fine-tuned in the same way. Each
surrogate is a sum of one number per group and width: Taylor scores kept, logarithms of the widths, or
changes of the held-out loss when the group is cut alone, raised to a power (1/2 is damage that adds up
in amplitude) or as a factor of survival. Given is Spearman's rank correlation between it and minus the
loss afterwards; ``repaired`` is that of the loss before fine-tuning, by which a recheck of finished plans
without training goes. ``power_best`` is the power with the best least correlation over all networks and
budgets.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from bench.common import write_result
from bench.plan_accuracy_case import Case, State, loader
from bench.plan_accuracy_tasks import PRUNED, TASKS
from hwprune.importance import score, to_objective
from hwprune.planner.curves.calibrate import calibrate
from hwprune.planner.curves.meter import Meter
from hwprune.solve.domains import domain_values, keep_best
from hwprune.solve.milp import solve_milp
from hwprune.surgery import cut_module
from hwprune.target import load_target

POWERS = (0.25, 0.5, 0.75, 1.0, 2.0)
Values = Mapping[str, Sequence[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default=",".join(PRUNED))
    parser.add_argument("--task", default="synthetic", choices=list(TASKS))
    parser.add_argument("--budgets", default="0.5,0.33", help="shares of the dense latency")
    parser.add_argument("--plans", type=int, default=24, help="random plans per network and budget")
    parser.add_argument("--points", type=int, default=3, help="widths measured per group")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=400, help="steps of training")
    parser.add_argument("--finetune", type=int, default=40, help="steps of fine-tuning")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/surrogates.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.made_up, options.time = True, False
    rows = [row for name in options.models.split(",") for row in one_network(name, options)]
    write_result(options.out, summary(rows), rows, as_json=options.json)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Least correlation of every surrogate, and the best power by that."""
    least: dict[str, float] = {}
    for row in rows:
        least[row["surrogate"]] = min(least.get(row["surrogate"], 1.0), row["loss"])
    powers = {power: least[f"power {power:g}"] for power in POWERS}
    return {
        **{f"{name}_min": value for name, value in least.items()},
        "power_best": max(powers, key=powers.__getitem__),
    }


def one_network(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rank correlations at all budgets."""
    case = Case(
        options.task, name, options.seed, load_target("host", threads=1), options, State(Path(), {}, {})
    )
    case.prepare()
    train = loader(case.task.train, shuffle=True, seed=options.seed)
    scores = score(case.captured, case.deps, "taylor2019", train, batches=16)
    domains = case.prices.domains
    held_out = loader(case.task.held_out, 150)
    curves = calibrate(
        case.captured, case.deps, domains, held_out, scores=scores, points=options.points
    ).curves
    sums = to_objective(scores, "global")
    surrogates: dict[str, Values] = {
        "taylor": {g: domain_values(sums[g], w) for g, w in domains.items()},
        "widths": {g: [float(np.log(n / w[-1])) for n in w] for g, w in domains.items()},
        "survival": {g: [-float(np.log1p(c)) for c in curve] for g, curve in curves.items()},
        **{f"power {p:g}": {g: [-(c**p) for c in curve] for g, curve in curves.items()} for p in POWERS},
    }
    meter = Meter(case.captured, case.deps, held_out)
    random = np.random.default_rng(options.seed)
    rows: list[dict[str, Any]] = []
    for share in case.shares:
        found: list[tuple[dict[str, int], float, float]] = []
        objectives = [*surrogates.values(), *(_random_values(domains, random) for _ in range(options.plans))]
        for number, values in enumerate(objectives):
            problem = case.prices.problem(values, share * case.dense_ns)
            widths = dict(solve_milp(problem).widths)
            keep = {g: keep_best(scores[g].numpy(), n) for g, n in widths.items()}
            model = cut_module(case.model, case.deps, keep)
            repaired = meter.repaired(model)
            case.repair(model, options.finetune)
            found.append((widths, repaired, meter.of(model)))
            print(f"{time.strftime('%T')} {name} {share:.0%} {number}: {found[-1][1:]}", file=sys.stderr)
        after = [-loss for _, _, loss in found]
        before = [-loss for _, loss, _ in found]
        totals = {s: [_total(v, domains, w) for w, _, _ in found] for s, v in surrogates.items()}
        totals["repaired"] = before
        for surrogate, total in totals.items():
            correlations = {"loss": _rank(total, after), "loss_before": _rank(total, before)}
            rows.append(
                {"model": name, "share": share, "surrogate": surrogate, "plans": len(found), **correlations}
            )
    return rows


def _random_values(domains: Mapping[str, Sequence[int]], random: np.random.Generator) -> Values:
    weights = {g: random.exponential() for g in domains}
    power = random.choice([0.5, 1.0, 2.0])
    return {g: [float(weights[g] * (n / w[-1]) ** power) for n in w] for g, w in domains.items()}


def _total(values: Values, domains: Mapping[str, Sequence[int]], widths: Mapping[str, int]) -> float:
    return sum(values[g][list(domains[g]).index(n)] for g, n in widths.items())


def _rank(a: Sequence[float], b: Sequence[float]) -> float:
    found: Any = spearmanr(a, b)
    return float(found.statistic)


if __name__ == "__main__":
    main()
