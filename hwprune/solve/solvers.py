"""All solvers behind one interface."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from hwprune.errors import PlanError
from hwprune.solve.cpsat import solve_cpsat
from hwprune.solve.greedy import solve_greedy
from hwprune.solve.knapsack import solve_knapsack
from hwprune.solve.milp import solve_milp
from hwprune.solve.problem import Choice, Problem, Solution
from hwprune.solve.uniform import solve_uniform

#: A solver that stops at a time limit (seconds) or a gap, from a choice to start with.
Exactly = Callable[[Problem, float, float, Choice | None], Solution]

_EXACT: Mapping[str, Exactly] = {
    "milp": lambda p, seconds, gap, start: solve_milp(p, time_limit_s=seconds, gap=gap, start=start),
    "cpsat": lambda p, seconds, gap, start: solve_cpsat(p, time_limit_s=seconds, gap=gap, start=start),
}
_HEURISTIC: Mapping[str, Callable[[Problem], Solution]] = {
    "greedy": solve_greedy,
    "knapsack": solve_knapsack,
    "uniform": solve_uniform,
}
#: Names that :func:`solve` knows: the exact ones, then those that exist for comparison.
SOLVERS: tuple[str, ...] = (*_EXACT, *_HEURISTIC)


def solve(
    problem: Problem,
    *,
    solver: str = "milp",
    time_limit_s: float = 30,
    gap: float = 1e-4,
    start: Choice | None = None,
) -> Solution:
    """Solve a problem with the solver of a name.

    Parameters
    ----------
    solver
        One of :data:`SOLVERS`.
    time_limit_s, gap, start
        Seconds, relative gap and first choice for the exact solvers; the others need none.

    Raises
    ------
    BudgetError
        No choice within the limits was found; the message says what can be reached.
    PlanError
        The solver is unknown or not installed, or the problem contradicts itself.
    """
    check_solver(solver)
    if solver in _EXACT:
        return _EXACT[solver](problem, time_limit_s, gap, start)
    return _HEURISTIC[solver](problem)


def check_solver(name: str) -> None:
    """Refuse an unknown name with ``PlanError``."""
    if name not in SOLVERS:
        near = difflib.get_close_matches(name, SOLVERS, 1)
        meant = f"; did you mean '{near[0]}'?" if near else ""
        raise PlanError(f"there is no solver '{name}'{meant}", hint=f"use one of {', '.join(SOLVERS)}")
