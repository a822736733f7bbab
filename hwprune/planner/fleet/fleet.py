"""One plan for several targets at once: a budget on each, or their weighted mean.

Every target has its own kernels, table and residual; widths, blocks and what they are worth are
shared. The problem has one latency limit per target. Kernels that a solution needs are measured on
every target that can be reached, and the solution is timed end to end on each.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hwprune.errors import BudgetError, BudgetMetError, UsageError
from hwprune.latency.table import LatencyTable
from hwprune.planner.fleet.problem import fleet_problem
from hwprune.planner.fleet.result import FleetResult
from hwprune.planner.loop import MAX_REFINEMENTS, PlanningLoop
from hwprune.planner.outcome import OVERRUN, TOLERANCE, Begun, LoopResult, Round
from hwprune.planner.prediction import predict
from hwprune.planner.residual import Residual
from hwprune.solve.budget import parse_budget
from hwprune.solve.milp import solve_milp
from hwprune.solve.problem import Problem, Solution

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A target of a fleet.

    Attributes
    ----------
    name
        Of the target.
    loop
        The network there.
    budget
        Budget as it was asked for, None where it has a weight.
    weight
        Its share of the mean, above 0, None where it has a budget.
    checks
        Whether plans can be timed there.
    unit
        What its latencies are counted in.
    """

    name: str
    loop: PlanningLoop
    budget: str | float | None = None
    weight: float | None = None
    checks: bool = True
    unit: str = "ns"


@dataclass
class _State:
    """What is known of one member so far."""

    member: Member
    begun: Begun
    table: LatencyTable
    residual: Residual
    budget_ns: float


def plan_fleet(
    members: Sequence[Member],
    *,
    mean: str | float | None = None,
    checks: int = 3,
    solve: Callable[[Problem], Solution] = solve_milp,
    shape: Callable[[Problem], Problem] = lambda problem: problem,
) -> FleetResult:
    """Find one plan that keeps every budget.

    Parameters
    ----------
    members
        The targets: each with a budget, or all with a weight.
    mean
        With weights: the share (``"50%"``) of the dense latency that the weighted mean may take. None
        where ``shape`` asks for the least.
    checks
        Rounds of timing candidate plans at most.
    solve, shape
        As of :class:`PlanningLoop`; the shapes of the members' own loops are not used.

    Raises
    ------
    UsageError
        Fewer than two targets, one twice, or budgets and weights mixed.
    PlanError
        The targets do not agree on which blocks can be removed.
    BudgetError
        A budget cannot be read or reached; or no plan kept all of them when it was measured.
    """
    _check_members(members)
    states = [_begin(member) for member in members]
    weights = _weights(members)
    share = _share_of(mean) if weights else None
    best: FleetResult | None = None
    seen: list[Solution] = []
    for number in range(max(1, checks)):
        try:
            problem, solution = _solve_measured(states, weights, share, solve, shape)
        except BudgetError:
            # Corrected residuals put the budgets out of reach; a plan that nearly keeps them counts.
            if best is None or best.overrun > OVERRUN:
                raise
            break
        repeated = any(solution.choice == earlier.choice for earlier in seen)
        if repeated and best is not None:
            break
        seen.append(solution)
        results = tuple(_result(state, problem, solution, timed=checks > 0) for state in states)
        found = FleetResult(
            solution,
            results,
            tuple(state.budget_ns for state in states),
            _mean_of(results, weights),
            share,
        )
        if best is None or _beats(found, best):
            best = found
        _log.info("round %d: worst overrun %.1f %%", number + 1, 100 * found.overrun)
        if checks == 0 or found.overrun <= TOLERANCE:
            break
        for state, result in zip(states, results, strict=True):
            _correct(state, solution, result)
    assert best is not None
    return best


def _check_members(members: Sequence[Member]) -> None:
    names = [member.name for member in members]
    if len(members) < 2:
        raise UsageError("a fleet has two targets or more", hint="plan for a single target without one")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"target {twice} is named twice", hint="leave one of them out")
    weighted = [member.weight is not None for member in members]
    if any(weighted) and not all(weighted):
        name = names[weighted.index(False)]
        raise UsageError(f"target {name} has no weight, others have", hint="give every target one, or none")
    for member in members:
        if member.weight is not None and not (math.isfinite(member.weight) and member.weight > 0):
            raise UsageError(f"weight {member.weight} of target {member.name} is not above zero")


def _weights(members: Sequence[Member]) -> list[float] | None:
    given = [member.weight for member in members if member.weight is not None]
    return [weight / sum(given) for weight in given] if given else None


def _share_of(mean: str | float | None) -> float | None:
    return None if mean is None else parse_budget(mean, 1.0, unit="of the dense latency")


def _begin(member: Member) -> _State:
    begun = member.loop.begin()
    budget = math.inf
    if member.budget is not None:
        try:
            budget = parse_budget(member.budget, begun.dense.median, unit=member.unit)
        except BudgetMetError as error:
            # The others decide: here every plan that is no slower than the dense network will do.
            _log.info("%s: %s", member.name, error.message)
            budget = begun.dense.median
        except BudgetError as error:
            raise BudgetError(f"target {member.name}: {error.message}", hint=error.hint) from error
    return _State(member, begun, begun.table, begun.residual, budget)


def _solve_measured(
    states: Sequence[_State],
    weights: Sequence[float] | None,
    share: float | None,
    solve: Callable[[Problem], Solution],
    shape: Callable[[Problem], Problem],
) -> tuple[Problem, Solution]:
    """Solve, measuring what the solution needs on every target, until nothing is missing."""
    only_measured = False
    for number in range(MAX_REFINEMENTS + 1):
        only_measured |= number == MAX_REFINEMENTS
        problems = [
            (
                state.member.name,
                state.member.loop.problem(
                    state.table, state.residual, state.budget_ns, only_measured=only_measured
                ),
                state.begun.dense.median,
            )
            for state in states
        ]
        joined = shape(fleet_problem(problems, weights, share))
        solution = solve(joined)
        stuck = True
        complete = True
        for state in states:
            left = state.member.loop.network.without(solution.removed)
            missing = left.missing(solution.widths, state.table)
            if missing:
                complete = False
                state.table = state.member.loop.profile(missing)
                stuck &= len(left.missing(solution.widths, state.table)) == len(missing)
        if complete:
            return joined, solution
        only_measured |= stuck
    raise AssertionError("a solution over measured kernels only cannot miss a kernel")


def _result(state: _State, problem: Problem, solution: Solution, *, timed: bool) -> LoopResult:
    loop, begun = state.member.loop, state.begun
    left = loop.network.without(solution.removed)
    prediction = predict(left, solution.widths, state.table, state.residual)
    measured = None
    rounds: tuple[Round, ...] = ()
    own = problem.limit(f"latency on {state.member.name}")
    if timed and state.member.checks:
        program = loop.network.program_at(solution.widths, solution.removed)
        measured = loop.timed({"pruned": program}, begun.dense)["pruned"]
        rounds = (Round(prediction.latency_ns, measured, dict(solution.widths), solution.removed),)
    return LoopResult(
        solution=solution,
        prediction=prediction,
        dense=begun.dense,
        dense_sum_ns=begun.dense_sum_ns,
        budget_ns=state.budget_ns if math.isfinite(state.budget_ns) else prediction.latency_ns,
        measured_ns=measured,
        rounds=rounds,
        refinements=0,
        table=state.table,
        residual=state.residual,
        problem=replace(problem, limits=(own, *(limit for limit in problem.limits if limit is not own))),
        solve_seconds=solution.seconds,
    )


def _correct(state: _State, solution: Solution, result: LoopResult) -> None:
    if result.measured_ns is None:
        return
    left = state.member.loop.network.without(solution.removed)
    state.residual = state.residual.with_point(left.predict(solution.widths, state.table), result.measured_ns)


def _mean_of(results: Sequence[LoopResult], weights: Sequence[float] | None) -> float | None:
    if weights is None:
        return None
    pairs = zip(weights, results, strict=True)
    return math.fsum(w * (r.measured_ns or r.predicted_ns) / r.dense.median for w, r in pairs)


def _beats(one: FleetResult, other: FleetResult) -> bool:
    """Plans that keep all budgets go by what they are best in; of others the nearest miss is best."""
    keeps, other_keeps = one.overrun <= TOLERANCE, other.overrun <= TOLERANCE
    if keeps != other_keeps:
        return keeps
    return one.solution.objective > other.solution.objective if keeps else one.overrun < other.overrun
