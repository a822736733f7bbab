"""The optimal choice under all limits, by mixed-integer linear programming.

See :mod:`hwprune.solve.exact` for how.
"""

from __future__ import annotations

import logging
import time

from hwprune.errors import BudgetError
from hwprune.solve.checks import check_problem
from hwprune.solve.exact import Backend, Exact
from hwprune.solve.greedy import lower_greedily
from hwprune.solve.highs import HighsProgram
from hwprune.solve.infeasible import Least, explain
from hwprune.solve.narrow import narrowed
from hwprune.solve.problem import Choice, Problem, Solution

_log = logging.getLogger(__name__)


def solve_milp(
    problem: Problem, *, time_limit_s: float = 30, gap: float = 1e-4, start: Choice | None = None
) -> Solution:
    """The choice of the greatest objective within all limits, proven to a gap, with HiGHS.

    Deterministic unless the time limit strikes, in which case the best choice found so far is
    returned with the bound proven so far.

    Parameters
    ----------
    time_limit_s
        Seconds for the solver.
    gap
        Relative gap between objective and proven bound at which it may stop.
    start
        A choice to begin with, besides the one of greedy search. It need not be within the limits.

    Raises
    ------
    BudgetError
        No choice is within the limits; the message names the closest that is reachable, or which
        two limits contradict each other.
    PlanError
        The problem contradicts itself.
    """
    return solve_exactly(problem, HighsProgram, "milp", time_limit_s=time_limit_s, gap=gap, start=start)


def solve_exactly(
    problem: Problem,
    backend: Backend,
    name: str,
    *,
    time_limit_s: float,
    gap: float,
    start: Choice | None = None,
    reduce: bool = True,
    greedy: bool = True,
) -> Solution:
    """:func:`solve_milp` with any solver for the linear form (``name`` goes into the solution)."""
    check_problem(problem)
    smaller = narrowed(problem) if reduce else problem
    if smaller is not problem:
        try:
            exact = Exact(smaller, backend, reduce)
            return solve_prepared(
                exact, smaller, name, time_limit_s=time_limit_s, gap=gap, start=start, greedy=greedy
            )
        except BudgetError:
            # What can be reached if a limit is given up is seen in the whole problem only.
            _log.debug("nothing within the limits: the whole problem says what is closest")
    exact = Exact(problem, backend, reduce)
    return solve_prepared(
        exact, problem, name, time_limit_s=time_limit_s, gap=gap, start=start, greedy=greedy
    )


def solve_prepared(
    exact: Exact,
    problem: Problem,
    name: str,
    *,
    time_limit_s: float,
    gap: float,
    start: Choice | None = None,
    greedy: bool = True,
) -> Solution:
    """:func:`solve_exactly` with a model that was made before, for a problem with other limits."""
    begin = time.perf_counter()
    deadline = begin + time_limit_s
    starts = [] if start is None else [exact.model.levels(start)]
    if greedy:
        starts.append(lower_greedily(exact.model, exact.limits(problem)))
    found = exact.solve(problem, gap=gap, deadline=deadline, starts=starts)
    if found.levels is None:
        raise explain(problem, _least(exact), time_limit_s)
    return Solution.of(
        problem,
        exact.model.choice(found.levels),
        bound=found.bound,
        seconds=time.perf_counter() - begin,
        solver=name,
    )


def _least(exact: Exact) -> Least:
    def least(problem: Problem, deadline: float) -> tuple[Choice | None, bool]:
        found = Exact(problem, exact.backend, exact.reduce).solve(problem, gap=0.0, deadline=deadline)
        if found.levels is None:
            return None, False
        choice = exact.model.choice(found.levels)
        reached = problem.objective(choice)
        return choice, found.bound - reached <= 1e-9 * max(abs(reached), 1.0)

    return least
