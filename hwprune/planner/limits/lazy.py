"""Many limits of which few bind: they are brought into the problem only when a solution breaks them.

The memory of a network is limited at every step of it, and all these limits hold the same products of
widths. A solution without some of them is still proven against them: leaving limits out can only
raise the bound, and a solution that keeps them all is one of the whole problem.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hwprune.planner.limits.limits import MEMORY
from hwprune.solve.problem import Limit, Problem, Solution


def solve_lazily(problem: Problem, solve: Callable[[Problem], Solution]) -> Solution:
    """Solve with as few limits on memory as it takes.

    Parameters
    ----------
    problem
        With limits named after :data:`hwprune.planner.limits.limits.MEMORY`, or without.
    solve
        Solves a problem with some of them.

    Raises
    ------
    BudgetError
        As ``solve`` does.
    """
    waiting = {limit.name: limit for limit in problem.limits[1:] if limit.name.startswith(MEMORY)}
    if len(waiting) < 2:
        return solve(problem)
    # The greatest in the dense network is the likeliest to bind.
    dense = problem.dense
    del waiting[max(waiting.values(), key=lambda limit: problem.usage(limit, dense)).name]
    seconds = 0.0
    while True:
        kept = tuple(limit for limit in problem.limits if limit.name not in waiting)
        found = solve(replace(problem, limits=kept))
        seconds += found.seconds
        broken = [limit for limit in waiting.values() if _excess(problem, limit, found) > 0]
        if not broken:
            return Solution.of(problem, found.choice, bound=found.bound, seconds=seconds, solver=found.solver)
        del waiting[max(broken, key=lambda limit: _excess(problem, limit, found)).name]


def _excess(problem: Problem, limit: Limit, found: Solution) -> float:
    return problem.usage(limit, found.choice) - limit.at_most
