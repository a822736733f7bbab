"""Limits that are brought in when they are broken give the same optimum as all of them at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hwprune.errors import BudgetError
from hwprune.planner.limits.lazy import solve_lazily
from hwprune.planner.limits.limits import MEMORY
from hwprune.solve.milp import solve_milp
from hwprune.solve.problem import Choice, Domain, Limit, Problem, Solution, Term

GROUPS = "abcd"


def problem(seed: int, steps: int = 6) -> Problem:
    random = np.random.default_rng(seed)
    domains = tuple(Domain(g, (1, 2, 3), tuple(np.sort(random.random(3)).tolist())) for g in GROUPS)
    every = np.array([1.0, 2.0, 3.0])
    latency = Limit("latency", tuple(Term(g, (g,), random.random() * every) for g in GROUPS), 0.1, 5.0)
    weights = Term("weights", ("a", "b"), random.random() * np.multiply.outer(every, every))
    memory = tuple(
        Limit(
            f"{MEMORY} at step {number}",
            (
                weights,
                *(Term(g, (g,), random.random() * every) for g in random.permutation(list(GROUPS))[:2]),
            ),
            0.0,
            3.0,
            "bytes",
        )
        for number in range(steps)
    )
    return Problem(domains, (latency, *memory))


@pytest.mark.parametrize("seed", range(12))
def test_the_optimum_is_that_of_the_whole_problem(seed: int):
    whole = problem(seed)
    calls: list[int] = []

    def solve(part: Problem) -> Solution:
        calls.append(len(part.limits))
        return solve_milp(part, gap=1e-9)

    choices = [
        Choice(dict(zip(GROUPS, widths, strict=True))) for widths in itertools.product((1, 2, 3), repeat=4)
    ]
    possible = [whole.value(choice) for choice in choices if whole.keeps(choice)]
    if not possible:
        with pytest.raises(BudgetError):
            solve_lazily(whole, solve)
        return
    found = solve_lazily(whole, solve)
    assert whole.keeps(found.choice)
    assert found.value == pytest.approx(max(possible), rel=1e-6)
    assert found.bound >= max(possible) * (1 - 1e-9)
    assert set(found.usage) == {limit.name for limit in whole.limits}
    assert calls[0] == 2
    assert calls == sorted(calls)


def test_one_limit_on_memory_is_no_matter():
    whole = problem(1, steps=1)
    parts: list[Problem] = []
    solve_lazily(whole, lambda part: parts.append(part) or solve_milp(part))
    assert parts == [whole]
