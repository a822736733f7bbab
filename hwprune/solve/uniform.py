"""The baseline: every group keeps the same fraction of its channels."""

from __future__ import annotations

import time
from bisect import bisect_right

from hwprune.errors import BudgetError
from hwprune.solve.problem import Choice, Problem, Solution
from hwprune.solve.terms import check_problem, latency_of


def solve_uniform(problem: Problem) -> Solution:
    """The largest common fraction that fits.

    Every group takes the largest of its widths that does not exceed the fraction (or its smallest
    width). The bound of the result is the dense model's value.

    Raises
    ------
    BudgetError
        No fraction meets the budget.
    PlanError
        The problem contradicts itself.
    """
    start = time.perf_counter()
    check_problem(problem)
    fractions = sorted({w / d.widths[-1] for d in problem.domains for w in d.widths}, reverse=True)
    least = float("inf")
    # From above rather than by bisection: measured latency does not always fall with the width.
    for fraction in fractions or [1.0]:
        widths = at_fraction(problem, fraction)
        latency = latency_of(problem, widths)
        if latency <= problem.limits[0].at_most:
            bound = sum(max(d.values) for d in problem.domains)
            return Solution.of(
                problem, Choice(widths), bound=bound, seconds=time.perf_counter() - start, solver="uniform"
            )
        least = min(least, latency)
    raise BudgetError(
        f"no common fraction meets the budget of {problem.limits[0].at_most / 1e6:.6g} ms: "
        f"the fastest takes {least / 1e6:.6g} ms",
        hint="use the milp solver, or ask for more",
    )


def at_fraction(problem: Problem, fraction: float) -> dict[str, int]:
    """Widths of all groups at a common fraction."""
    return {
        # Compared as fractions, so that a width is found by its own fraction despite rounding.
        d.group: d.widths[max(0, bisect_right([w / d.widths[-1] for w in d.widths], fraction) - 1)]
        for d in problem.domains
    }
