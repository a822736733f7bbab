"""What is made of a prepared model: a plan, a plan for a fleet, a frontier, a verdict."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from hwprune.errors import BudgetError, BudgetMetError, HwpruneError, PlanError, UsageError
from hwprune.planner.curves.recheck import clearly_best
from hwprune.planner.curves.rechecked import RIVALS, Judged, judge_by_loss
from hwprune.planner.fleet.budgets import Budgets, budgets_of, check_names
from hwprune.planner.fleet.fleet import Member, plan_fleet
from hwprune.planner.fleet.result import reject_fleet_overrun
from hwprune.planner.loop import LoopResult, reject_overrun
from hwprune.planner.options import PlanOptions
from hwprune.planner.outcome import Begun
from hwprune.planner.pareto import least_of, trace
from hwprune.planner.result import fleet_line
from hwprune.planner.verdict import Verdict
from hwprune.planning.floors import held, with_fitting_floors
from hwprune.planning.frontiers import Frontier
from hwprune.planning.prepare import Targets, prepare
from hwprune.planning.prepared import Prepared
from hwprune.planning.valued import criteria_of
from hwprune.pruned import Planned
from hwprune.solve.plan_parts import Rechecked

_log = logging.getLogger(__name__)

#: Budget where none is asked for.
DEFAULT_LATENCY = "50%"


def solve_for(prepared: Prepared, latency: Budgets, *, begun: Begun | None = None) -> Planned:
    """Measure, solve and check; see :func:`hwprune.plan`.

    ``begun`` is what the first station's loop began with, if it has begun.

    Raises
    ------
    BudgetError
        No plan is within the limits; what pruning can do at most is said, and why.
    """
    if latency is None and prepared.options.floor is None:
        latency = DEFAULT_LATENCY
    with prepared.at_work():
        return _solve_for(prepared, latency, begun)


def _solve_for(prepared: Prepared, latency: Budgets, begun: Begun | None) -> Planned:
    if len(prepared.stations) > 1:
        return _fleet(prepared, latency)
    station = prepared.first
    budget = budgets_of([station.name], latency)[station.name]
    begun = begun or station.loop.begin()
    said = station.verdict(begun)
    if not said.helps:
        _log.warning("%s", said.text)
    solved = (
        _best(prepared, budget, begun, said) if prepared.others else _solved(prepared, budget, begun, said)
    )
    taken, result = solved.prepared, solved.result
    asked = _least_asked(prepared) if budget is None else str(budget)
    plan = taken.plan_of(result, asked, verdict=said, rechecked=solved.line)
    return Planned(plan, station.bench, result, prepared.subject)


@dataclass(frozen=True)
class _Solved:
    """A plan by one criterion, and the losses behind it; ``criteria`` are those of several."""

    prepared: Prepared
    result: LoopResult
    judged: Judged | None
    criteria: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def line(self) -> Rechecked | None:
        if self.judged is None:
            return None
        return self.judged.line.model_copy(update={"criteria": dict(self.criteria)})


def _solved(prepared: Prepared, budget: str | float | None, begun: Begun, said: Verdict) -> _Solved:
    try:
        prepared = with_fitting_floors(prepared, budget, begun)
        result = prepared.first.loop.run(budget, checks=prepared.checks, begun=begun)
        if budget is not None:
            reject_overrun(result)
    except BudgetMetError:
        raise
    except BudgetError as error:
        raise BudgetError(f"{error.message}; {said.text}", hint=_hint(prepared, error)) from error
    judged = _judged(prepared, result)
    return _Solved(prepared, result if judged is None else judged.result, judged)


def _best(prepared: Prepared, budget: str | float | None, begun: Begun, said: Verdict) -> _Solved:
    """A plan by each criterion, each compared with its own rivals; the one of the least held-out loss."""
    found: dict[str, _Solved] = {}
    failures: list[HwpruneError] = []
    for each in (prepared, *prepared.others):
        try:
            found[each.criterion] = _solved(each, budget, begun, said)
        except BudgetMetError:
            raise
        except (BudgetError, PlanError) as error:
            # Floors against starvation and ruined models are a criterion's own.
            _log.warning("no plan by %s: %s", each.criterion, error.message)
            failures.append(error)
            continue
        # What was measured for one is known to the next.
        begun = replace(begun, table=found[each.criterion].result.table)
    if not found:
        raise failures[0]
    losses = {name: solved.judged.loss for name, solved in found.items() if solved.judged is not None}
    name = clearly_best(losses)
    tried = ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
    _log.info("held-out losses of the plans by criterion: %s; %s is taken", tried, name)
    return replace(found[name], criteria=losses)


def verdict(
    model: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    target: Targets = "host",
    data: Iterable[Any] | None = None,
    **options: Any,
) -> Verdict:
    """What pruning can save at most on a target, and why not more, before anything is trained.

    Takes the parameters of :func:`hwprune.plan`. A coarse grid of kernels and the dense network are
    measured; ``least_ns`` is the proven least latency within the other limits.

    Raises
    ------
    UsageError
        More than one target.
    BudgetError
        The other limits leave no choice at all.
    """
    _one_criterion(options, data, "a verdict")
    prepared = _alone(prepare(model, example_inputs, target, data, **options), "a verdict")
    begun = prepared.first.loop.begin()
    problem = prepared.first.loop.problem(begun.table, begun.residual, math.inf)
    said = prepared.first.verdict(begun)
    return replace(said, least_ns=min(least_of(problem), said.dense_ns))


def frontier(
    model: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    target: Targets = "host",
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
        Fewer than two points, more than one target, or the options have a floor or a solver of their own.
    BudgetError
        The other limits leave no choice at all.

    Examples
    --------
    >>> curve = hwprune.frontier(model, torch.randn(1, 3, 224, 224), points=12)
    >>> curve.save("frontier.json"); curve.plot("frontier.svg")
    """
    if points < 2:
        raise UsageError(f"a frontier of {points} points is none", hint="ask for 2 or more, such as 12")
    wanted: PlanOptions = options.get("options") or PlanOptions()
    if wanted.solver != "milp":
        raise UsageError(
            f"a frontier is solved by milp at all of its points, not by {wanted.solver}",
            hint="leave the solver out, or plan for each latency on its own",
        )
    _one_criterion(options, data, "a frontier")
    prepared = _alone(prepare(model, example_inputs, target, data, checks=checks, **options), "a frontier")
    if prepared.goal.floor is not None:
        raise UsageError("a frontier shows all floors at once", hint="leave the floor out")
    with prepared.at_work():
        curve = trace(prepared.first.loop, points, checks=prepared.checks)
    plans = tuple(prepared.plan_of(result, f"a frontier of {points} points") for result in curve.points)
    return Frontier(plans, curve)


def _fleet(prepared: Prepared, latency: Budgets) -> Planned:
    names = [station.name for station in prepared.stations]
    weights = prepared.options.weights
    if weights:
        check_names("weight", names, weights)
        if isinstance(latency, Mapping):
            raise UsageError(
                "the targets have budgets and weights",
                hint="give one budget for the weighted mean, or no weights",
            )
    budgets = budgets_of(names, None if weights else latency)
    members = [
        Member(
            station.name,
            station.loop,
            budgets[station.name],
            weights.get(station.name),
            station.can_time,
            station.bench.target.unit,
        )
        for station in prepared.stations
    ]
    mean = latency if weights and not isinstance(latency, Mapping) else None
    try:
        found = plan_fleet(
            members, mean=mean, checks=prepared.checks, solve=prepared.options.solve, shape=prepared.goal
        )
        reject_fleet_overrun(found, names)
    except BudgetMetError:
        raise
    except BudgetError as error:
        raise BudgetError(error.message, hint=_hint(prepared, error)) from error
    lines = tuple(
        fleet_line(
            station.bench,
            result,
            budget=budgets[station.name] is not None,
            weight=weights.get(station.name),
        )
        for station, result in zip(prepared.stations[1:], found.results[1:], strict=True)
    )
    first = found.results[0]
    if weights:
        asked = _least_asked(prepared) if mean is None else f"{mean} of the weighted mean"
    else:
        own = budgets[names[0]]
        asked = _least_asked(prepared) if own is None else str(own)
    return Planned(prepared.plan_of(first, asked, fleet=lines), prepared.first.bench, first, prepared.subject)


def _judged(prepared: Prepared, result: LoopResult) -> Judged | None:
    """The plan of the least held-out loss, where there is held-out data and the resolution is its own."""
    exact = prepared.options.solver in ("milp", "cpsat")
    # A plan that was asked of a method for comparison has no rivals; its loss is needed among criteria.
    compared = len(prepared.criteria) > 1
    if prepared.meter is None or result.resolution is not None or not (exact or compared):
        return None
    bench = prepared.first.bench
    return judge_by_loss(
        prepared.first.loop,
        result,
        prepared.meter,
        prepared.values,
        blocks=bench.blocks.blocks if prepared.options.depth else (),
        checks=prepared.checks,
        rivals=RIVALS if exact else {},
        progress=bench.progress,
    )


def _hint(prepared: Prepared, error: BudgetError) -> str | None:
    """What else may help where floors were asked for."""
    said = [] if error.hint is None else [error.hint]
    if prepared.harm:
        said.append(
            "floors against starvation narrow what can be chosen: allow more harm (most_harm, --most-harm)"
        )
    if prepared.floors is not None and prepared.goal.least:
        said.append(f"the floors of {prepared.criterion} {held(prepared, prepared.goal.least)}")
    return "; ".join(said) or None


def _least_asked(prepared: Prepared) -> str:
    return f"least with {prepared.options.floor} of the importance"


def _alone(prepared: Prepared, what: str) -> Prepared:
    if len(prepared.stations) > 1:
        raise UsageError(f"{what} is for one target", hint="ask for the targets one by one")
    return prepared


def _one_criterion(asked: Mapping[str, Any], data: Iterable[Any] | None, what: str) -> None:
    judges = criteria_of(asked.get("criterion"), asked.get("options") or PlanOptions(), data=data is not None)
    if len(judges) > 1:
        names = [judge.label for judge in judges]
        raise UsageError(f"{what} is by one criterion", hint=f"name one of {', '.join(names)}")
