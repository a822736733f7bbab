"""How plans are chosen in :mod:`bench.plan_accuracy`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from bench.plan_accuracy_case import Case, Method, Plan, loader
from bench.plan_accuracy_peers import TorchPruning, uniform_widths
from hwprune.importance import get, score, to_objective
from hwprune.planner.curves.calibrate import calibrate
from hwprune.planner.curves.meter import Meter
from hwprune.planner.curves.recheck import Recheck, choose_by_loss, loss_of_choices
from hwprune.planner.curves.values import blended
from hwprune.solve.domains import domain_values, keep_best
from hwprune.solve.problem import Choice
from hwprune.surgery import cut_module

#: Which units go at a width: no criterion is best at every width, so plans by each are made and checked.
CRITERIA = ("taylor2019", "bn_scale")


def ours(case: Case) -> Plan:
    """Calibrated curves, the exact solver, and the recheck of plans by the loss, for each criterion."""
    makers = {criterion: _checked(case, criterion) for criterion in CRITERIA}

    def plan(budget_ns: float) -> tuple[nn.Module, dict[str, int], str]:
        checks = {criterion: maker(budget_ns) for criterion, (_, maker) in makers.items()}
        best = min(checks, key=lambda criterion: checks[criterion].losses[checks[criterion].name])
        check, scores = checks[best], makers[best][0]
        widths = dict(check.choice.widths)
        keep = {g: keep_best(scores[g].numpy(), n) for g, n in widths.items()}
        losses = "; ".join(
            f"{criterion}: " + ", ".join(f"{name} {loss:.3f}" for name, loss in c.losses.items())
            for criterion, c in checks.items()
        )
        return cut_module(case.model, case.deps, keep), widths, f"{check.name} by {best} ({losses})"

    return plan


def _checked(case: Case, criterion: str) -> tuple[dict[str, torch.Tensor], Callable[[float], Recheck]]:
    """Scores by a criterion, and the best of the plans with its units for a latency."""
    train = loader(case.task.train, shuffle=True, seed=case.seed)
    scores = score(case.captured, case.deps, criterion, train, batches=16)
    held_out = loader(case.task.held_out, 150)
    domains = case.prices.domains
    found = calibrate(case.captured, case.deps, domains, held_out, scores=scores)
    values = to_objective(scores, get(criterion).comparability)
    sums = {g: domain_values(values[g], widths) for g, widths in domains.items()}
    meter = Meter(case.captured, case.deps, held_out)
    repair = partial(case.repair, steps=case.options.finetune)
    evaluate = loss_of_choices(meter, scores, repair=repair)

    def check(budget_ns: float) -> Recheck:
        candidates = {
            "calibrated": case.prices.solve(found.values, budget_ns),
            "blend": case.prices.solve(blended(found.values, sums), budget_ns),
            "scores": case.prices.solve(sums, budget_ns),
            "uniform": Choice(uniform_widths(case.prices, budget_ns)),
        }
        return choose_by_loss(candidates, evaluate)

    return scores, check


def uniform(case: Case) -> Plan:
    """The same fraction everywhere; filters of the least L1 norm go (Li et al. 2017)."""
    scores = score(case.captured, case.deps, "l1")

    def plan(budget_ns: float) -> tuple[nn.Module, dict[str, int], str]:
        widths = uniform_widths(case.prices, budget_ns)
        keep = {g: keep_best(scores[g].numpy(), n) for g, n in widths.items()}
        return cut_module(case.model, case.deps, keep), widths, ""

    return plan


def torch_pruning(kind: str) -> Method:
    """Torch-Pruning's global pruning by a criterion."""

    def prepare(case: Case) -> Plan:
        images, labels = next(iter(loader(case.task.train, 64, shuffle=True, seed=case.seed)))
        multiple = case.target.multiple("conv2d")
        peer = TorchPruning(case.model, case.deps, case.prices, kind, (images, labels), multiple)

        def plan(budget_ns: float) -> tuple[nn.Module, dict[str, int], str]:
            model = peer.at(budget_ns)
            return model, peer.widths(model), ""

        return plan

    return prepare


METHODS: dict[str, Method] = {
    "ours": ours,
    "uniform": uniform,
    "tp-magnitude": torch_pruning("magnitude"),
    "tp-taylor": torch_pruning("taylor"),
}
