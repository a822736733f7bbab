"""The whole curve of importance over latency, from one model of the problem.

All points are solved over the same table; kernels that a point needs and the table lacks are
measured, for all points at once, and the curve is solved again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from hwprune.errors import BudgetError, UsageError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.table import LatencyTable
from hwprune.planner.limits.lazy import solve_lazily
from hwprune.planner.limits.limits import MEMORY
from hwprune.planner.loop import PlanningLoop
from hwprune.planner.network import Column
from hwprune.planner.outcome import Begun, LoopResult
from hwprune.planner.prediction import predict
from hwprune.planner.residual import Residual
from hwprune.planner.worth import Side
from hwprune.solve.greedy import solve_greedy
from hwprune.solve.milp import solve_milp
from hwprune.solve.pareto import frontier
from hwprune.solve.problem import Problem, Solution
from hwprune.solve.uniform import solve_uniform

_log = logging.getLogger(__name__)

#: Rounds of measuring what points of the curve lack; afterwards interpolated kernels are taken as they are.
REFINEMENTS = 4
#: Seconds for each point; what is not proven by then has a gap, which its plan states.
POINT_S = 5.0

#: Widths, removed blocks and resolution of a point.
Key = tuple[tuple[tuple[str, int], ...], frozenset[str], Side | None]
Rivals = Mapping[str, Callable[[Problem], Solution]]


@dataclass(frozen=True)
class Mark:
    """A point of a rival's curve: predicted latency (ns) and importance kept."""

    latency_ns: float
    value: float


@dataclass(frozen=True)
class Curve:
    """The frontier, from the greatest latency to the least.

    Attributes
    ----------
    points
        One result per point that is not dominated; ``measured_ns`` where it was timed.
    budgets
        The latencies (ns) that were asked for.
    dense_ns, least_ns
        Measured latency of the dense network, and the least that any choice is predicted to have.
    dense_value
        Importance of the dense network.
    rivals
        The same budgets by other methods, by name; budgets that a method cannot meet are left out.
    """

    points: tuple[LoopResult, ...]
    budgets: tuple[float, ...]
    dense_ns: float
    least_ns: float
    dense_value: float
    rivals: Mapping[str, tuple[Mark, ...]]


RIVALS: Rivals = {"greedy": solve_greedy, "uniform": solve_uniform}


def trace(
    loop: PlanningLoop,
    count: int,
    *,
    checks: int = 0,
    begun: Begun | None = None,
    rivals: Rivals = RIVALS,
) -> Curve:
    """Solve for ``count`` latencies, evenly spread from that of the dense network to the least.

    Parameters
    ----------
    loop
        The network, what its parts are worth, and how to measure.
    count
        Points to ask for, at least 2; points that others dominate are left out.
    checks
        Points to time end to end, evenly chosen, all interleaved; the prediction is fitted to them and
        the curve solved once more.
    begun
        What :meth:`PlanningLoop.begin` returned, if it was called.
    rivals
        Other methods to draw beside.

    Raises
    ------
    UsageError
        Fewer than two points, or the loop has another objective than importance.
    BudgetError
        The other limits leave no choice at all.
    """
    if count < 2:
        raise UsageError(f"a frontier of {count} points is none", hint="ask for 2 or more, such as 12")
    begun = begun or loop.begin()
    solved, table = _refined(loop, begun, begun.table, begun.residual, count)
    residual, measured = begun.residual, dict[Key, float]()
    if checks:
        measured, residual = _timed(loop, solved, begun, table, residual, checks)
        solved, table = _refined(loop, begun, table, residual, count)
    points = [_result(loop, found, begun, table, residual) for found in solved.points]
    points = [replace(p, measured_ns=measured.get(_key(p.solution, p.resolution))) for p in points]
    marks = {name: _marks(solve, solved) for name, solve in rivals.items()}
    whole = max(problem.value(problem.dense) for _, problem in solved.problems)
    return Curve(tuple(points), solved.budgets, begun.dense.median, solved.least_ns, whole, marks)


@dataclass(frozen=True)
class _Found:
    column: Column
    problem: Problem
    solution: Solution


@dataclass(frozen=True)
class _Solved:
    problems: tuple[tuple[Column, Problem], ...]
    budgets: tuple[float, ...]
    least_ns: float
    points: tuple[_Found, ...]


def _refined(
    loop: PlanningLoop, begun: Begun, table: LatencyTable, residual: Residual, count: int
) -> tuple[_Solved, LatencyTable]:
    """The curve, and the table with all of its kernels as far as they can be measured."""
    for _ in range(REFINEMENTS):
        solved = _solved(loop, begun, table, residual, count)
        lacking = {spec.canonical(): spec for found in solved.points for spec in _missing(found, table)}
        if not lacking:
            return solved, table
        loop.refinements += 1
        table = loop.profile(list(lacking.values()))
        # Where nothing can be measured (the device is away) there is no use in asking again.
        if all(table.get(spec) is None for spec in lacking.values()):
            break
    return _solved(loop, begun, table, residual, count), table


def _missing(found: _Found, table: LatencyTable) -> list[KernelSpec]:
    solution = found.solution
    return found.column.network.without(solution.removed).missing(solution.widths, table)


def _solved(loop: PlanningLoop, begun: Begun, table: LatencyTable, residual: Residual, count: int) -> _Solved:
    problems = tuple(
        (column, loop.problem(table, residual, math.inf, column=column)) for column in loop.columns
    )
    if any(problem.minimise is not None for _, problem in problems):
        raise UsageError(
            "a frontier shows all floors at once", hint="leave the floor out, and choose a point afterwards"
        )
    least = min(least_of(problem) for _, problem in problems)
    # A hair above the least, which a solver reaches only up to its tolerance.
    # The dense network is predicted a little beside what it measures.
    most = max(problem.usage(problem.limits[0], problem.dense) for _, problem in problems)
    budgets = tuple(float(b) for b in np.linspace(most * (1 + 1e-9), least * (1 + 1e-6), count))
    found: list[_Found] = []
    for column, problem in problems:
        reachable = [b for b in budgets if b >= least_of(problem)] if len(problems) > 1 else budgets
        found += [_Found(column, problem, solution) for solution in _all_of(problem, reachable)]
        loop.solve_seconds = max([loop.solve_seconds, *(f.solution.seconds for f in found)])
    return _Solved(problems, budgets, least, _undominated(found))


def least_of(problem: Problem) -> float:
    """Least latency (ns) of any choice within the other limits."""
    name = problem.limits[0].name
    open_ = replace(problem.limited(math.inf), minimise=name, floor=-math.inf)
    return solve_lazily(open_, partial(solve_milp, time_limit_s=POINT_S)).usage[name]


def _all_of(problem: Problem, budgets: Sequence[float]) -> list[Solution]:
    """The best choice at every budget that can be reached."""
    if not any(limit.name.startswith(MEMORY) for limit in problem.limits):
        return list(frontier(problem, budgets, time_limit_s=POINT_S))
    found: list[Solution] = []
    for budget in budgets:
        try:
            found.append(solve_lazily(problem.limited(budget), partial(solve_milp, time_limit_s=POINT_S)))
        except BudgetError as error:
            _log.debug("budget of %.4g ms: %s", budget / 1e6, error.message)
    return found


def _undominated(found: Sequence[_Found]) -> tuple[_Found, ...]:
    """From the greatest latency to the least; each worth more than all quicker ones."""
    kept: list[_Found] = []
    for each in sorted(found, key=lambda f: (f.solution.latency_ns, -f.solution.value)):
        if not kept or each.solution.value > kept[-1].solution.value:
            kept.append(each)
    return tuple(reversed(kept))


def _result(
    loop: PlanningLoop, found: _Found, begun: Begun, table: LatencyTable, residual: Residual
) -> LoopResult:
    solution = found.solution
    prediction = predict(found.column.network.without(solution.removed), solution.widths, table, residual)
    usage = {**solution.usage, found.problem.limits[0].name: prediction.latency_ns}
    return LoopResult(
        solution=replace(solution, usage=usage),
        prediction=prediction,
        dense=begun.dense,
        dense_sum_ns=begun.dense_sum_ns,
        budget_ns=prediction.latency_ns,
        measured_ns=None,
        rounds=(),
        refinements=loop.refinements,
        table=table,
        residual=residual,
        problem=found.problem,
        resolution=found.column.resolution,
        solve_seconds=solution.seconds,
    )


def _timed(
    loop: PlanningLoop,
    solved: _Solved,
    begun: Begun,
    table: LatencyTable,
    residual: Residual,
    checks: int,
) -> tuple[dict[Key, float], Residual]:
    """Latencies of some points at the pace of the dense network, and the residual fitted to them."""
    count = min(checks, len(solved.points))
    picks = sorted(set(np.rint(np.linspace(0, len(solved.points) - 1, count)).astype(int).tolist()))
    chosen = [solved.points[i] for i in picks]
    programs = {
        f"point {number}": found.column.network.program_at(found.solution.widths, found.solution.removed)
        for number, found in enumerate(chosen)
    }
    times = loop.timed(programs, begun.dense)
    sums, nanoseconds = [point[0] for point in residual.points], [point[1] for point in residual.points]
    measured: dict[Key, float] = {}
    for number, found in enumerate(chosen):
        solution = found.solution
        measured[_key(solution, found.column.resolution)] = times[f"point {number}"]
        sums.append(found.column.network.without(solution.removed).predict(solution.widths, table))
        nanoseconds.append(times[f"point {number}"])
    return measured, Residual.fit(sums, nanoseconds)


def _key(solution: Solution, resolution: Side | None) -> Key:
    return tuple(sorted(solution.widths.items())), solution.removed, resolution


def _marks(solve: Callable[[Problem], Solution], solved: _Solved) -> tuple[Mark, ...]:
    found: list[Mark] = []
    for budget in solved.budgets:
        best: Mark | None = None
        for _, problem in solved.problems:
            try:
                solution = solve(problem.limited(budget))
            except BudgetError as error:
                _log.debug("budget of %.4g ms: %s", budget / 1e6, error.message)
                continue
            if best is None or solution.value > best.value:
                best = Mark(solution.latency_ns, solution.value)
        if best is not None:
            found.append(best)
    return tuple(found)
