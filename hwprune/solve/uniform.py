"""The baseline: every group keeps the same fraction of its channels."""

from __future__ import annotations

import time
from bisect import bisect_right

from hwprune.errors import BudgetError
from hwprune.solve.checks import check_problem
from hwprune.solve.greedy import what_is_broken
from hwprune.solve.model import build_model
from hwprune.solve.problem import Choice, Problem, Solution


def solve_uniform(problem: Problem) -> Solution:
    """The common fraction that serves the objective best within all limits; blocks stay.

    Every group takes the largest of its widths that does not exceed the fraction (or its smallest
    width). The bound of the result is the sum of all largest values.

    Raises
    ------
    BudgetError
        No fraction keeps all limits.
    PlanError
        The problem contradicts itself.
    """
    start = time.perf_counter()
    check_problem(problem)
    model = build_model(problem)
    fractions = sorted({w / d.widths[-1] for d in problem.domains for w in d.widths if w}, reverse=True)
    # All of them rather than bisection: measured latency does not always fall with the width.
    choices = [at_fraction(problem, fraction) for fraction in fractions or [1.0]]
    fits = [choice for choice in choices if problem.keeps(choice)]
    if not fits:
        least = min(choices, key=lambda choice: problem.usage(problem.limits[0], choice))
        raise BudgetError(
            f"no common fraction keeps all limits: even at the fastest of them "
            f"{what_is_broken(problem, model, model.levels(least))}",
            hint="use the milp solver, or ask for more",
        )
    return Solution.of(
        problem,
        max(fits, key=problem.objective),
        bound=model.most(),
        seconds=time.perf_counter() - start,
        solver="uniform",
    )


def at_fraction(problem: Problem, fraction: float) -> Choice:
    """Widths of all groups at a common fraction."""
    widths = {
        # Compared as fractions, so that a width is found by its own fraction despite rounding.
        d.group: d.widths[max(0, bisect_right([w / d.widths[-1] for w in d.widths], fraction) - 1)]
        for d in problem.domains
        if d.widths[-1]
    }
    return Choice({d.group: widths.get(d.group, d.widths[-1]) for d in problem.domains})
