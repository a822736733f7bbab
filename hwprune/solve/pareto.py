"""The frontier: the best choice at every budget."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Sequence

import numpy as np

from hwprune.errors import PlanError
from hwprune.solve.checks import check_problem
from hwprune.solve.exact import Backend, Exact
from hwprune.solve.greedy import lower_greedily
from hwprune.solve.highs import HighsProgram
from hwprune.solve.milp import solve_prepared
from hwprune.solve.problem import Problem, Solution

_log = logging.getLogger(__name__)


def frontier(
    problem: Problem,
    budgets: Iterable[float],
    *,
    time_limit_s: float = 30,
    gap: float = 1e-4,
    backend: Backend = HighsProgram,
    solver: str = "milp",
) -> tuple[Solution, ...]:
    """The optimal choices for several budgets of the first limit, from one model of the problem.

    Every budget begins with all choices that were met for the others, so it takes a fraction of
    the time of a first solution.

    Parameters
    ----------
    budgets
        In the unit of the first limit, in any order. Those that cannot be reached are left out.
    time_limit_s, gap
        For each of them.
    backend, solver
        What solves the linear form, and its name.

    Returns
    -------
    tuple of Solution
        Ascending in both latency and importance; none is as good as another in both. Two budgets
        with the same answer give one.

    Raises
    ------
    BudgetError
        None of the budgets can be reached; the message names the closest that can.
    PlanError
        The problem contradicts itself, there are no budgets, or it is not importance that is to be
        greatest.
    """
    check_problem(problem)
    if problem.minimise is not None:
        raise PlanError(
            "a frontier is over budgets with the most importance at each; it cannot minimise a limit",
            hint="leave the objective as it is",
        )
    asked = sorted(set(budgets))
    if not asked:
        raise PlanError("a frontier needs at least one budget", hint="give a few, such as 75%, 50% and 30%")
    # The model keeps the rows that the tightest budget can break.
    exact = Exact(problem.limited(asked[0]), backend)
    found: list[Solution] = []
    for budget in asked:
        limited = problem.limited(budget)
        begin = time.perf_counter()
        starts = [exact.model.levels(solution.choice) for solution in found]
        starts.append(lower_greedily(exact.model, exact.limits(limited)))
        answer = exact.solve(limited, gap=gap, deadline=begin + time_limit_s, starts=starts)
        if answer.levels is None:
            _log.info("a budget of %g cannot be reached", budget)
            continue
        choice = exact.model.choice(answer.levels)
        seconds = time.perf_counter() - begin
        found.append(Solution.of(limited, choice, bound=answer.bound, seconds=seconds, solver=solver))
    if not found:
        # Solved once more for the message; it raises.
        solution = solve_prepared(
            exact, problem.limited(asked[-1]), solver, time_limit_s=time_limit_s, gap=gap
        )
        found.append(solution)
    return undominated(found)


def undominated(solutions: Iterable[Solution]) -> tuple[Solution, ...]:
    """Those that no other is at least as good as, in both latency and importance, ascending.

    Of equals the one with the least gap stays.
    """
    kept: list[Solution] = []
    for solution in sorted(solutions, key=lambda s: (s.latency_ns, -s.value, s.gap)):
        if not kept or solution.value > kept[-1].value:
            kept.append(solution)
    return tuple(kept)


def spread_budgets(fastest: float, dense: float, count: int) -> tuple[float, ...]:
    """``count`` budgets from the fastest reachable to just below the dense, evenly in ratio.

    Raises
    ------
    PlanError
        ``count`` is less than 1, or there is nothing between the two.
    """
    if count < 1 or not 0 < fastest <= dense:
        raise PlanError(
            f"no {count} budgets between {fastest:g} and {dense:g}", hint="ask for at least one point"
        )
    shares: Sequence[float] = np.linspace(0.0, 1.0, count + 1)[:-1].tolist()
    budgets = [fastest * (dense / fastest) ** share for share in shares]
    # The first one must be reachable despite rounding.
    return tuple(budget for budget, _ in itertools.groupby([fastest, *budgets[1:]]))
