"""From a model to what is needed to plan for it, and to plans, frontiers and verdicts."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwprune.errors import BudgetError, BudgetMetError, UsageError
from hwprune.frontiers import Frontier
from hwprune.importance import get as get_criterion
from hwprune.importance import score, to_objective
from hwprune.measure.runners.carry import CarriedSite
from hwprune.measure.site import Site
from hwprune.planner.carried import CarriedWorkbench
from hwprune.planner.goal import Goal, Offer
from hwprune.planner.loop import Begun, LoopResult, PlanningLoop, reject_overrun
from hwprune.planner.options import PlanOptions
from hwprune.planner.pareto import least_of, trace
from hwprune.planner.result import make_plan
from hwprune.planner.verdict import Verdict, judge
from hwprune.planner.workbench import Progress, Workbench, measure_profile, silent
from hwprune.pruned import Planned, Subject
from hwprune.solve.budget import parse_budget
from hwprune.solve.plan import Plan
from hwprune.target import Target, load_target

_log = logging.getLogger(__name__)
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

#: Stands for the dense latency until it is measured, to find out whether a budget can be read.
_ANY_LATENCY_NS = 1e300


@dataclass(frozen=True)
class Prepared:
    """A model that can be planned for: captured, scored, with its kernels and a place to time them."""

    subject: Subject
    bench: Workbench
    loop: PlanningLoop
    goal: Goal
    criterion: str
    values: Any
    checks: int
    seed: int
    asked: dict[str, Any]

    def verdict(self, begun: Begun) -> Verdict:
        """What pruning can do at most, from what was measured at first."""
        residual = begun.residual
        outside = max(0.0, residual.shift_ns + residual.launch_ns * len(self.bench.model.families))
        return judge(
            self.bench.model,
            begun.table,
            target=self.bench.target.name,
            dense_ns=begun.dense.median,
            outside_ns=outside,
            ledger=self.bench.deps.ledger,
            unit=self.bench.target.unit,
        )

    def plan_of(self, result: LoopResult, budget_asked: str) -> Plan:
        """The plan file of a result."""
        made = make_plan(
            self.bench,
            result,
            self.values,
            criterion=self.criterion,
            budget_asked=budget_asked,
            seed=self.seed,
        )
        return made.model_copy(update=self.asked)


def prepare(
    model: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    target: str | Path | Target,
    data: Iterable[Any] | None,
    *,
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
    """Capture, analyse and score a model, and open its latency table; see :func:`hwprune.plan`."""
    options = options or PlanOptions()
    resolved = target if isinstance(target, Target) else load_target(target, threads=threads)
    name = criterion or ("taylor2019" if data is not None else "l2")
    # What can be judged by its name alone is, before minutes of measuring.
    comparability, measured = get_criterion(name).comparability, measure_profile(profile)
    if submodule is not None and data is not None:
        raise UsageError(
            f"channels of the submodule {submodule!r} cannot be scored with data of the whole model",
            hint="leave data out: the criterion is then l2, or name one that needs none",
        )
    analysis: dict[str, Any] = {
        "submodule": submodule,
        "inside_heads": tuple(inside_heads),
        "prune_outputs": prune_outputs,
    }
    subject = Subject.open(model, example_inputs, include=include, exclude=exclude, **analysis)
    captured, deps = subject.captured, subject.deps
    offer = Offer.of(captured, deps, [resolved], options, minimum=minimum, steps=steps)
    progress(f"score channels by {name}", 0, 1)
    scores = score(captured, deps, criterion=name, data=data, loss=loss)
    values = to_objective(scores, comparability)
    bench = Workbench.open(
        captured,
        deps,
        resolved,
        profile=measured,
        tables=tables,
        search=search,
        seed=seed,
        site=site,
        widths=offer.widths,
        progress=progress,
    )
    if isinstance(site, CarriedSite):
        bench, checks = CarriedWorkbench.of(bench), 0
    goal = Goal.of(captured, deps, bench.fused, offer, options)
    loop = PlanningLoop(
        bench,
        values,
        profile=bench.measure_kernels,
        time_networks=bench.time_networks,
        known=bench.known_table(),
        shape=goal,
    )
    return Prepared(subject, bench, loop, goal, name, values, checks, seed, analysis)


def check_budget(latency: str | float | None, target: str | Path | Target) -> None:
    """Refuse a budget that cannot be read, whatever the dense latency is.

    Raises
    ------
    BudgetError
        Malformed.
    """
    if latency is None:
        return
    resolved = target if isinstance(target, Target) else load_target(target)
    with contextlib.suppress(BudgetMetError):
        parse_budget(latency, _ANY_LATENCY_NS, unit=resolved.unit)


def solve_for(prepared: Prepared, latency: str | float | None) -> Planned:
    """Measure, solve and check; see :func:`hwprune.plan`.

    Raises
    ------
    BudgetError
        No plan is within the limits; what pruning can do at most is said, and why.
    """
    begun = prepared.loop.begin()
    verdict = prepared.verdict(begun)
    if not verdict.helps:
        _log.warning("%s", verdict.text)
    try:
        result = prepared.loop.run(latency, checks=prepared.checks, begun=begun)
        reject_overrun(result)
    except BudgetMetError:
        raise
    except BudgetError as error:
        raise BudgetError(f"{error.message}; {verdict.text}", hint=error.hint) from error
    asked = (
        str(latency) if latency is not None else f"least latency with {prepared.goal.floor:.4g} of importance"
    )
    return Planned(prepared.plan_of(result, asked), prepared.bench, result, prepared.subject)


def verdict(
    model: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    target: str | Path | Target = "host",
    data: Iterable[Any] | None = None,
    **options: Any,
) -> Verdict:
    """What pruning can save at most on a target, and why not more, before anything is trained.

    Takes the parameters of :func:`hwprune.plan`. A coarse grid of kernels and the dense network are
    measured; ``least_ns`` is the proven least latency within the other limits.

    Raises
    ------
    BudgetError
        The other limits leave no choice at all.
    """
    prepared = prepare(model, example_inputs, target, data, **options)
    begun = prepared.loop.begin()
    problem = prepared.loop.problem(begun.table, begun.residual, math.inf)
    return replace(prepared.verdict(begun), least_ns=least_of(problem))


def frontier(
    model: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    target: str | Path | Target = "host",
    data: Iterable[Any] | None = None,
    *,
    points: int = 12,
    checks: int = 0,
    **options: Any,
) -> Frontier:
    """The whole curve: plans from the dense model's latency down to the least that can be reached.

    Takes the parameters of :func:`hwprune.plan` except the latency. The points' latencies are evenly
    spread; plans that others dominate are left out. ``checks`` points are timed end to end.

    Raises
    ------
    UsageError
        Fewer than two points, or the options have a floor.
    BudgetError
        The other limits leave no choice at all.

    Examples
    --------
    >>> curve = hwprune.frontier(model, torch.randn(1, 3, 224, 224), points=12)
    >>> curve.save("frontier.json"); curve.plot("frontier.svg")
    """
    if points < 2:
        raise UsageError(f"a frontier of {points} points is none", hint="ask for 2 or more, such as 12")
    prepared = prepare(model, example_inputs, target, data, checks=checks, **options)
    if prepared.goal.floor is not None:
        raise UsageError("a frontier shows all floors at once", hint="leave the floor out")
    curve = trace(prepared.loop, points, checks=prepared.checks)
    plans = tuple(prepared.plan_of(result, f"point of a frontier of {points}") for result in curve.points)
    return Frontier(plans, curve)
