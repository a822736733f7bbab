"""Knapsack over channels with the inputs of every layer held, after HALP (Shen et al., 2022).

Every layer is charged to its output group; how many channels it reads is held at the current
choice. Latency is then a sum over groups, and the steps from one width to the next are the items of
a knapsack, of which a later one is only taken with all before it. As taking items changes what
other layers read, the budget is lowered over many rounds, and the costs are looked up anew in each.

It exists for comparison. Here the knapsack is solved exactly, on a grid of time that rounds up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np

from hwprune.errors import BudgetError, PlanError
from hwprune.solve.checks import check_problem
from hwprune.solve.greedy import what_is_broken
from hwprune.solve.model import build_model
from hwprune.solve.problem import Choice, Domain, Problem, Solution, Term

#: Rounds from the dense latency to the budget.
STEPS = 30
#: Further rounds at the budget, in case the choice of the last one misses it.
_MORE = 20
#: Units of time that the budget is divided into.
_GRID = 8192


def solve_knapsack(problem: Problem, *, steps: int = STEPS) -> Solution:
    """Widths by repeated knapsacks under the first limit; blocks stay.

    Parameters
    ----------
    steps
        Rounds, over which the budget falls geometrically from what the dense model takes.

    Raises
    ------
    BudgetError
        The limits are not kept after all rounds.
    PlanError
        The problem contradicts itself, or importance is not what is to be greatest.
    """
    start = time.perf_counter()
    check_problem(problem)
    if problem.minimise is not None:
        raise PlanError(
            "the knapsack solver keeps the most importance; it cannot minimise a limit",
            hint="use the milp solver",
        )
    limit = problem.limits[0]
    choice = problem.dense
    dense = problem.usage(limit, choice)
    budget = min(limit.at_most, dense)
    for step in range(1, steps + _MORE + 1):
        share = min(1.0, step / steps)
        target = dense * (budget / dense) ** share if budget > 0 and dense > 0 else budget
        if share == 1.0 and problem.keeps(choice):
            break
        choice = Choice({**choice.widths, **_round(problem, choice, target)})
    if not problem.keeps(choice):
        model = build_model(problem)
        raise BudgetError(
            f"the knapsacks end where {what_is_broken(problem, model, model.levels(choice))}",
            hint="use the milp solver, or ask for more",
        )
    return Solution.of(
        problem,
        choice,
        bound=build_model(problem).most(),
        seconds=time.perf_counter() - start,
        solver="knapsack",
    )


def _round(problem: Problem, choice: Choice, target: float) -> dict[str, int]:
    """Widths, none above the current ones, of most importance whose separable latency fits."""
    limit = problem.limits[0]
    domains = [d for d in problem.domains if d.widths.index(choice.widths[d.group])]
    costs = {d.group: np.zeros(d.widths.index(choice.widths[d.group]) + 1) for d in domains}
    fixed = limit.fixed
    for term in limit.terms:
        group = _charged(term, costs)
        if group is None:
            fixed += problem.cost(term, choice)
            continue
        costs[group] += _held(problem, term, choice, group)[: costs[group].size]
    picked = _multiple_choice(domains, costs, target - fixed)
    return {d.group: d.widths[level] for d, level in zip(domains, picked, strict=True)}


def _charged(term: Term, costs: Mapping[str, np.ndarray]) -> str | None:
    """The group that pays for a layer: the last that it depends on, its output."""
    return next((axis for axis in reversed(term.axes) if axis in costs), None)


def _held(problem: Problem, term: Term, choice: Choice, group: str) -> np.ndarray:
    """Cost over the widths of one group, everything else at the current choice."""
    widths = problem.domain(group).widths
    where: list[np.ndarray] = []
    for axis in term.axes:
        if axis == group:
            where.append(np.arange(len(widths)))
        else:
            where.append(np.full(len(widths), problem.level_index(axis, choice)))
    return np.asarray(term.cost_ns)[tuple(where)]


def _multiple_choice(domains: list[Domain], costs: Mapping[str, np.ndarray], room: float) -> list[int]:
    """One level per group of the greatest value whose costs fit; the cheapest ones if nothing does.

    Dynamic programming over the time used (Dudzinski and Walukiewicz, 1987).
    """
    least = [float(costs[d.group].min()) for d in domains]
    spare = room - math.fsum(least)
    cheapest = [int(np.argmin(costs[d.group])) for d in domains]
    if spare <= 0 or not domains:
        return cheapest
    best = np.zeros(_GRID + 1)
    taken: list[np.ndarray] = []
    for domain, low in zip(domains, least, strict=True):
        units = np.ceil((costs[domain.group] - low) / spare * _GRID - 1e-9).astype(int)
        found = np.full(_GRID + 1, -np.inf)
        level_of = np.zeros(_GRID + 1, np.int16)
        for level, unit in enumerate(units):
            if unit > _GRID:
                continue
            value = np.full(_GRID + 1, -np.inf)
            value[unit:] = best[: _GRID + 1 - unit] + domain.values[level]
            better = value > found
            found[better], level_of[better] = value[better], level
        best = found
        taken.append(level_of)
    at, picked = _GRID, []
    for domain, low, level_of in zip(reversed(domains), reversed(least), reversed(taken), strict=True):
        level = int(level_of[at])
        picked.append(level)
        at -= math.ceil((costs[domain.group][level] - low) / spare * _GRID - 1e-9)
    return picked[::-1]
