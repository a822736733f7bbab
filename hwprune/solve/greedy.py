"""Greedy search: lower one group at a time, the one that saves most latency per lost importance.

This is the step rule of NetAdapt (Yang et al., 2018) with importance in the place of its short
fine-tuning; it exists for comparison with the optimal solver.
"""

from __future__ import annotations

import math
import time

import numpy as np

from hwprune.errors import BudgetError
from hwprune.solve.problem import Choice, Problem, Solution
from hwprune.solve.terms import Merged, check_problem, latency_of, merge_terms


def solve_greedy(problem: Problem) -> Solution:
    """Lower widths step by step until the budget is met.

    The bound of the result is the dense model's value, the only one that this search proves.

    Raises
    ------
    BudgetError
        No further step saves latency and the budget is not met. That does not prove it
        unreachable; the optimal solver can tell.
    PlanError
        The problem contradicts itself.
    """
    start = time.perf_counter()
    check_problem(problem)
    widths, latency = lower_greedily(problem)
    if latency > problem.limits[0].at_most:
        raise BudgetError(
            f"greedy search ends at {latency / 1e6:.6g} ms, "
            f"above the budget of {problem.limits[0].at_most / 1e6:.6g} ms",
            hint="use the milp solver, which finds the least reachable latency, or ask for more",
        )
    bound = sum(max(d.values) for d in problem.domains)
    return Solution.of(
        problem, Choice(widths), bound=bound, seconds=time.perf_counter() - start, solver="greedy"
    )


def lower_greedily(problem: Problem) -> tuple[dict[str, int], float]:
    """Where the search ends: widths, and their latency in nanoseconds (above the budget if stuck)."""
    _, merged = merge_terms(problem)
    touching: list[list[Merged]] = [[t for t in merged if i in t.axes] for i in range(len(problem.domains))]
    index = [len(d.widths) - 1 for d in problem.domains]
    widths = {d.group: d.widths[-1] for d in problem.domains}
    latency = latency_of(problem, widths)
    while latency > problem.limits[0].at_most:
        best: tuple[float, float, int, int] | None = None
        for i, domain in enumerate(problem.domains):
            step = _step(touching[i], index, i)
            if step is None:
                continue
            lower, saved = step
            lost = domain.values[index[i]] - domain.values[lower]
            rate = saved / lost if lost > 0 else math.inf
            if best is None or (rate, saved) > best[:2]:
                best = (rate, saved, i, lower)
        if best is None:
            break
        _, _, i, lower = best
        index[i] = lower
        widths[problem.domains[i].group] = problem.domains[i].widths[lower]
        latency = latency_of(problem, widths)
    return widths, latency


def _step(terms: list[Merged], index: list[int], group: int) -> tuple[int, float] | None:
    """Nearest lower width that saves latency, and how much; measured costs have flat stretches."""
    if not index[group]:
        return None
    costs = np.zeros(index[group] + 1)
    for term in terms:
        where = tuple(slice(0, index[a] + 1) if a == group else index[a] for a in term.axes)
        costs += term.cost_ns[where]
    saved = costs[-1] - costs[:-1]
    better = np.flatnonzero(saved > 0)
    return (int(better[-1]), float(saved[better[-1]])) if better.size else None
