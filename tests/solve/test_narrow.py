"""Widths that limits rule out by themselves: no choice is lost, and what is left is smaller."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwprune.errors import BudgetError
from hwprune.solve.milp import solve_milp
from hwprune.solve.model import build_model
from hwprune.solve.narrow import narrowed
from hwprune.solve.problem import Block, Domain, Limit, Problem, Term
from tests.solve.strategies import brute_force, choices, problems


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems(), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_no_choice_within_the_limits_is_lost(problem: Problem, shares: list[float]) -> None:
    every = list(choices(problem))
    limits: list[Limit] = []
    for limit, share in zip(problem.limits, shares, strict=False):
        used = sorted({problem.usage(limit, choice) for choice in every})
        limits.append(replace(limit, at_most=used[round(share * (len(used) - 1))]))
    problem = replace(problem, limits=(*limits, *problem.limits[len(limits) :]))
    smaller = narrowed(problem)
    kept = [choice for choice in every if problem.keeps(choice)]
    left = list(choices(smaller))
    assert all(choice in left for choice in kept)
    for choice in left:
        assert smaller.value(choice) == pytest.approx(problem.value(choice), abs=1e-9)
        for limit, own in zip(problem.limits, smaller.limits, strict=True):
            assert smaller.usage(own, choice) == pytest.approx(problem.usage(limit, choice), abs=1e-9)
    best = brute_force(problem)
    if best is None:
        with pytest.raises(BudgetError):
            solve_milp(problem, gap=0.0)
    else:
        assert solve_milp(problem, gap=0.0).objective == pytest.approx(best, rel=1e-6, abs=1e-6)


def _layers(count: int) -> Problem:
    """A latency over a chain, and a limit on every layer alone."""
    rng = np.random.default_rng(0)
    widths = tuple(range(16, 129, 16))
    domains = tuple(Domain(f"g{i}", widths, tuple(np.cumsum(rng.random(8)))) for i in range(count))
    cost, alone = np.outer(widths, widths).astype(float), np.array(widths, float)
    pairs = [Term(f"k{i}", (f"g{i}", f"g{i + 1}"), cost) for i in range(count - 1)]
    most = 5.0 + 16 * rng.integers(2, 8, count)
    own = [Limit(f"layer {i}", (Term("w", (f"g{i}",), alone),), 5.0, float(most[i])) for i in range(count)]
    return Problem(domains, (Limit("latency", tuple(pairs), 0.0, 0.3 * count * 128**2), *own))


def test_limits_on_single_groups_become_widths() -> None:
    problem = _layers(30)
    smaller = narrowed(problem)
    for domain, limit in zip(smaller.domains, problem.limits[1:], strict=True):
        assert domain.widths[-1] == limit.at_most - 5.0
    assert len(build_model(problem).rows) == 1 + 31
    assert build_model(smaller).rows == ("objective", "limit latency")
    found = solve_milp(problem)
    assert found.gap <= 1e-4 and problem.keeps(found.choice)
    assert set(found.usage) == {limit.name for limit in problem.limits}


def test_a_block_whose_group_does_not_fit_is_for_the_solver() -> None:
    inner = Domain("inner", (2, 4), (1.0, 2.0), "block")
    outer = Domain("outer", (2, 4), (1.0, 2.0))
    terms = (
        Term("a", ("inner",), np.array([9.0, 18.0]), "block"),
        Term("b", ("outer",), np.array([1.0, 3.0])),
    )
    problem = Problem((inner, outer), (Limit("latency", terms, 0.0, 8.0),), (Block("block", 0.5),))
    assert narrowed(problem) is problem
    assert solve_milp(problem).removed == {"block"}
    # Without the block to remove there is no choice, and the message is about the whole problem.
    stuck = replace(problem, domains=(replace(inner, block=None), outer), blocks=())
    stuck = replace(
        stuck, limits=(replace(stuck.limits[0], terms=(replace(terms[0], block=None), terms[1])),)
    )
    assert narrowed(stuck) is stuck
    with pytest.raises(BudgetError, match="least reachable latency is 1e-05 ms"):
        solve_milp(stuck)
    assert math.isinf(narrowed(problem.limited(math.inf)).limits[0].at_most)


def test_what_can_be_reached_is_told_of_the_whole_problem() -> None:
    """Two limits that contradict each other: narrowing by one must not hide what the other reaches."""
    a = Domain("a", (1, 2, 3), (1.0, 2.0, 3.0))
    up = Limit("latency", (Term("t", ("a",), np.array([1.0, 2.0, 3.0])),), 0.0, 1.5)
    down = Limit("memory", (Term("m", ("a",), np.array([9.0, 4.0, 2.0])),), 0.0, 5.0, "bytes")
    with pytest.raises(BudgetError, match="latency") as caught:
        solve_milp(Problem((a,), (up, down)))
    assert "2e-06 ms" in caught.value.message
