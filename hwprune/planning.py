"""From a model to what is needed to plan for it on one target or several."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hwprune.errors import BudgetMetError, UsageError
from hwprune.importance import get as get_criterion
from hwprune.importance import score, to_objective
from hwprune.measure.runners.carry import CarriedSite
from hwprune.measure.site import Site
from hwprune.planner.carried import CarriedWorkbench
from hwprune.planner.fleet_budgets import Budgets, budgets_of
from hwprune.planner.goal import Goal, Offer
from hwprune.planner.loop import Begun, LoopResult, PlanningLoop
from hwprune.planner.options import PlanOptions
from hwprune.planner.result import Asked, make_plan
from hwprune.planner.verdict import Verdict, judge
from hwprune.planner.workbench import Progress, Workbench, measure_profile, silent
from hwprune.pruned import Subject
from hwprune.solve.budget import parse_budget
from hwprune.solve.plan import Plan
from hwprune.solve.plan_parts import FleetLine, LimitLine
from hwprune.target import Target, load_target

_log = logging.getLogger(__name__)
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: One target, or those of a fleet.
Targets = str | Path | Target | Sequence[str | Path | Target]

#: Stands for the dense latency until it is measured, to find out whether a budget can be read.
_ANY_LATENCY_NS = 1e300


@dataclass(frozen=True)
class Station:
    """A model on one of the targets: its kernels and table, and the loop that plans there."""

    bench: Workbench
    loop: PlanningLoop

    @property
    def name(self) -> str:
        """The target's name."""
        return self.bench.target.name

    @property
    def can_time(self) -> bool:
        """Whether networks can be timed there."""
        return not isinstance(self.bench, CarriedWorkbench)

    def verdict(self, begun: Begun) -> Verdict:
        """What pruning can do at most, from what was measured at first."""
        residual, target = begun.residual, self.bench.target
        return judge(
            self.bench.model,
            begun.table,
            target=target.name,
            dense_ns=begun.dense.median,
            outside_ns=residual.shift_ns + residual.launch_ns * len(self.bench.model.families),
            ledger=self.bench.deps.ledger,
            unit=target.unit,
        )


@dataclass(frozen=True)
class Prepared:
    """A model that can be planned for: captured and scored, with a station for every target.

    ``values`` are the scores by which units are kept; ``goal`` shapes the problem.
    """

    subject: Subject
    stations: tuple[Station, ...]
    goal: Goal
    options: PlanOptions
    values: dict[str, np.ndarray]
    checks: int
    asked: dict[str, Any]

    @property
    def first(self) -> Station:
        """Of the first target, after which plans are named."""
        return self.stations[0]

    def plan_of(
        self,
        result: LoopResult,
        budget: str,
        *,
        fleet: tuple[FleetLine, ...] = (),
        verdict: Verdict | None = None,
    ) -> Plan:
        """The plan file of a result."""
        floor = self.options.floor
        asked = Asked(
            budget=budget,
            floor=None if floor is None else str(floor),
            allowed=self.goal.allowed,
            **self.asked,
        )
        text = None if verdict is None else verdict.text
        lines = self._limit_lines(result)
        return make_plan(
            self.first.bench, result, self.values, asked, limits=lines, fleet=fleet, verdict=text
        )

    def _limit_lines(self, result: LoopResult) -> tuple[LimitLine, ...]:
        needs = self.goal.needs(result.solution.choice)
        dense = self.goal.dense_needs
        if needs is None or dense is None:
            return ()
        found: list[LimitLine] = []
        for name, amount, used, whole in (
            ("parameters", self.goal.parameters, needs.parameters, dense.parameters),
            ("memory", self.goal.memory, needs.bytes, dense.bytes),
        ):
            unit = "bytes" if name == "memory" else "parameters"
            at_most = None if amount is None else amount.of(whole)
            found.append(LimitLine(name=name, unit=unit, used=used, at_most=at_most))
        return tuple(found)


def prepare(
    model: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    target: Targets,
    data: Iterable[Any] | None,
    *,
    latency: Budgets = None,
    options: PlanOptions | None = None,
    criterion: str | None = None,
    loss: Loss | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    submodule: str | None = None,
    inside_heads: Sequence[str] = (),
    prune_outputs: bool = False,
    threads: int | None = None,
    profile: str = "quick",
    tables: Path | None = None,
    search: bool = False,
    minimum: float = 0.1,
    steps: int = 8,
    checks: int = 3,
    seed: int = 0,
    site: Site | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Capture, analyse and score a model, and open its latency tables; see :func:`hwprune.plan`."""
    options = options or PlanOptions()
    targets = resolve(target, threads)
    name = criterion or ("taylor2019" if data is not None else "l2")
    # What can be judged by its name alone is, before minutes of measuring.
    comparability, care = get_criterion(name).comparability, measure_profile(profile)
    _check_budgets(latency, targets)
    if len(targets) > 1 and site is not None:
        raise UsageError("a site is given for several targets", hint="plan for them one by one")
    if submodule is not None and data is not None:
        raise UsageError(
            f"channels of the submodule {submodule!r} cannot be scored with data of the whole model",
            hint="leave data out: the criterion is then l2, or name one that needs none",
        )
    analysis: dict[str, Any] = {
        "include": tuple(include),
        "exclude": tuple(exclude),
        "submodule": submodule,
        "inside_heads": tuple(inside_heads),
        "prune_outputs": prune_outputs,
    }
    subject = Subject.open(model, example_inputs, **analysis)
    captured, deps = subject.captured, subject.deps
    offer = Offer.of(captured, deps, targets, options, minimum=minimum, steps=steps)
    progress(f"score channels by {name}", 0, 1)
    values = to_objective(score(captured, deps, criterion=name, data=data, loss=loss), comparability)
    stations: list[Station] = []
    goal: Goal | None = None
    for each in targets:
        bench = Workbench.open(
            captured,
            deps,
            each,
            profile=care,
            tables=tables,
            search=search,
            seed=seed,
            site=site,
            widths=offer.widths,
            progress=progress,
        )
        if isinstance(site, CarriedSite):
            bench, checks = CarriedWorkbench.of(bench), 0
        goal = goal or Goal.of(captured, deps, bench.fused, offer, options)
        loop = PlanningLoop(
            bench,
            values,
            profile=bench.measure_kernels,
            time_networks=bench.time_networks,
            known=bench.known_table(),
        )
        stations.append(Station(bench, loop))
    assert goal is not None
    if len(stations) == 1:
        stations[0].loop.shape = goal
    return Prepared(
        subject,
        tuple(stations),
        goal,
        options,
        values,
        checks,
        {"criterion": name, "seed": seed, **analysis},
    )


def resolve(target: Targets, threads: int | None = None) -> tuple[Target, ...]:
    """The targets that are named."""
    each = [target] if isinstance(target, str | Path | Target) else list(target)
    if not each:
        raise UsageError("no target is given", hint="name one, such as host")
    return tuple(t if isinstance(t, Target) else load_target(t, threads=threads) for t in each)


def _check_budgets(latency: Budgets, targets: Sequence[Target]) -> None:
    """Refuse budgets that cannot be read, whatever the dense latency is."""
    asked = budgets_of([target.name for target in targets], latency)
    for target in targets:
        budget = asked[target.name]
        if budget is not None:
            with contextlib.suppress(BudgetMetError):
                parse_budget(budget, _ANY_LATENCY_NS, unit=target.unit)
