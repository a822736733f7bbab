"""Frontiers and variants equal solving every budget and every variant alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwprune.errors import BudgetError, PlanError
from hwprune.solve.milp import solve_milp
from hwprune.solve.pareto import frontier, spread_budgets
from hwprune.solve.problem import Domain, Problem, Term
from hwprune.solve.variants import best_of
from tests.solve.instances import resnet50_like
from tests.solve.strategies import brute_force, choices, problems

CHECKS = list(HealthCheck)


@settings(max_examples=25, deadline=None, suppress_health_check=CHECKS)
@given(problems(), st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_a_frontier_equals_brute_force_at_every_budget(problem: Problem, shares: list[float]) -> None:
    problem = replace(problem, minimise=None, floor=-np.inf)
    every = sorted({problem.usage(problem.limits[0], choice) for choice in choices(problem)})
    budgets = [every[round(share * (len(every) - 1))] for share in shares]
    best = {budget: brute_force(problem.limited(budget)) for budget in budgets}
    if all(value is None for value in best.values()):
        with pytest.raises(BudgetError):
            frontier(problem, budgets, gap=0.0)
        return
    points = frontier(problem, budgets, gap=0.0)
    assert {point.value for point in points} == {value for value in best.values() if value is not None}
    for a, b in pairwise(points):
        assert a.latency_ns < b.latency_ns and a.value < b.value
    for budget, value in best.items():
        reached = [point.value for point in points if point.latency_ns <= budget]
        assert max(reached, default=None) == value


@settings(max_examples=25, deadline=None, suppress_health_check=CHECKS)
@given(st.lists(problems(), min_size=1, max_size=3))
def test_the_best_variant_equals_brute_force(variants: list[Problem]) -> None:
    named = {str(i): replace(p, minimise=None, floor=-np.inf) for i, p in enumerate(variants)}
    best = {key: brute_force(problem) for key, problem in named.items()}
    reachable = [value for value in best.values() if value is not None]
    if not reachable:
        with pytest.raises(BudgetError, match="no variant"):
            best_of(named, gap=0.0)
        return
    found = best_of(named, gap=0.0)
    assert found.solution.value == max(reachable) == best[found.key]
    assert named[found.key].keeps(found.solution.choice)
    assert found.solution.bound == pytest.approx(max(reachable), rel=1e-6, abs=1e-6)
    for key, value in best.items():
        assert value is None or found.bounds[key] >= value - 1e-9


def test_a_frontier_of_a_network_is_proven_at_every_point() -> None:
    problem = resnet50_like(1.0, steps=5)
    dense = problem.usage(problem.limits[0], problem.dense)
    budgets = spread_budgets(0.2 * dense, dense, 8)
    points = frontier(problem, budgets)
    assert len(points) == 8 and all(point.gap <= 1e-4 for point in points)
    assert all(p.latency_ns <= b for p, b in zip(points, budgets, strict=True))
    alone = solve_milp(problem.limited(budgets[3]))
    assert points[3].value == pytest.approx(alone.value, rel=2e-4)
    again = frontier(problem, reversed(budgets))
    assert [point.choice for point in again] == [point.choice for point in points]


def test_bad_frontiers_are_refused() -> None:
    a = Domain("a", (1, 2), (1.0, 2.0))
    problem = Problem.of_latency((a,), (Term("t", ("a",), np.array([4.0, 8.0])),), 0.0, 9.0)
    assert [p.value for p in frontier(problem, [3.0, 8.5, 5.0, 9.0])] == [1.0, 2.0]
    with pytest.raises(BudgetError, match="least reachable latency is 4e-06 ms"):
        frontier(problem, [1.0, 2.0])
    with pytest.raises(PlanError, match="at least one budget"):
        frontier(problem, [])
    with pytest.raises(PlanError, match="cannot minimise"):
        frontier(replace(problem, minimise="latency"), [5.0])
    assert spread_budgets(1.0, 16.0, 4) == (1.0, 2.0, 4.0, 8.0)
    with pytest.raises(PlanError, match="no 0 budgets"):
        spread_budgets(1.0, 2.0, 0)


def test_variants_without_a_choice_name_the_closest() -> None:
    a = Domain("a", (1, 2), (1.0, 2.0))
    large = Problem.of_latency((a,), (Term("t", ("a",), np.array([4.0, 8.0])),), 0.0, 2.0)
    small = Problem.of_latency((a,), (Term("t", ("a",), np.array([3.0, 6.0])),), 0.0, 2.0)
    with pytest.raises(BudgetError, match=r"192 comes closest.*least reachable latency is 3e-06 ms"):
        best_of({224: large, 192: small})
    # Wide at a low resolution against narrow at a high one.
    found = best_of({224: replace(large.limited(6.0), constant_value=0.5), 192: small.limited(6.0)})
    assert found.key == 192 and found.solution.value == 2.0
    with pytest.raises(PlanError, match="no variants"):
        best_of({})
    with pytest.raises(PlanError, match="different objectives"):
        best_of({1: large, 2: replace(small, minimise="latency")})
