"""The best choice of a small problem, by looking at every one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hwprune.errors import BudgetError
from hwprune.solve.problem import Choice, Problem, Solution


def choices(problem: Problem) -> Iterator[Choice]:
    """Every choice of widths and blocks."""
    names = [block.name for block in problem.blocks]
    for gone in itertools.chain.from_iterable(
        itertools.combinations(names, n) for n in range(len(names) + 1)
    ):
        removed = frozenset(gone)
        options = [(0,) if d.block in removed else d.widths for d in problem.domains]
        for widths in itertools.product(*options):
            yield Choice(dict(zip((d.group for d in problem.domains), widths, strict=True)), removed)


def brute_force(problem: Problem) -> Solution:
    """The best choice that is within all limits."""
    kept = [choice for choice in choices(problem) if problem.keeps(choice)]
    if not kept:
        raise BudgetError("nothing is within the limits")
    best = max(kept, key=problem.objective)
    return Solution.of(problem, best, bound=problem.objective(best), seconds=0.0, solver="brute force")
