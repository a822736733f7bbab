"""Frontiers and variants equal solving every budget and every variant alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwprune.errors import BudgetError, PlanError
from hwprune.solve.greedy import solve_greedy
from hwprune.solve.milp import solve_milp
from hwprune.solve.pareto import frontier, spread_budgets
from hwprune.solve.problem import Domain, Problem, Solution, Term
from hwprune.solve.uniform import solve_uniform
from hwprune.solve.variants import best_of
from tests.solve.instances import latency_problem, resnet50_like
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
    solve = partial(solve_milp, gap=0.0)
    if not reachable:
        with pytest.raises(BudgetError, match="no variant" if len(named) > 1 else None):
            best_of(named, solve)
        return
    key, solution = best_of(named, solve)
    assert solution.value == max(reachable) == best[key]
    assert key == next(name for name, value in best.items() if value == max(reachable))
    assert named[key].keeps(solution.choice)
    assert solution.bound == pytest.approx(max(reachable), rel=1e-6, abs=1e-6)


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
    problem = latency_problem((a,), (Term("t", ("a",), np.array([4.0, 8.0])),), 0.0, 9.0)
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


def _pair(at_most: float) -> dict[int, Problem]:
    """Two widths of one group at two resolutions; the smaller one is quicker."""
    a = Domain("a", (1, 2), (1.0, 2.0))
    costs = {224: np.array([4.0, 8.0]), 192: np.array([3.0, 6.0])}
    terms = {side: (Term("t", ("a",), cost),) for side, cost in costs.items()}
    return {side: latency_problem((a,), own, 0.0, at_most) for side, own in terms.items()}


def test_the_best_of_variants_by_any_solver() -> None:
    # Wide at a low resolution against narrow at a high one.
    problems = _pair(6.0)
    for solve in (solve_milp, solve_greedy, solve_uniform):
        key, solution = best_of({**problems, 224: replace(problems[224], constant_value=0.5)}, solve)
        assert (key, solution.value, solution.widths) == (192, 2.0, {"a": 2})
        key, solution = best_of({**problems, 224: replace(problems[224], constant_value=1.5)}, solve)
        assert (key, solution.value) == (224, 2.5)
        # Of equals the first.
        same = {**problems, 224: replace(problems[224], constant_value=1.0)}
        assert best_of(same, solve)[0] == 224
        assert best_of(dict(reversed(same.items())), solve)[0] == 192


def test_the_bound_is_that_of_all_variants_and_the_seconds_too() -> None:
    def told(problem: Problem) -> Solution:
        found = solve_milp(problem)
        loose = problem.usage(problem.limits[0], problem.dense) == 8.0
        return replace(found, bound=5.0 if loose else found.bound, seconds=1.5)

    key, solution = best_of(_pair(6.0), told)
    assert (key, solution.bound, solution.seconds) == (192, 5.0, 3.0)
    assert solution.gap == pytest.approx((5.0 - 2.0) / 5.0)


def test_variants_without_a_choice_name_the_closest() -> None:
    with pytest.raises(BudgetError, match=r"192 comes closest.*least reachable latency is 3e-06 ms"):
        best_of(_pair(2.0), solve_milp)
    # One alone fails as it would by itself.
    alone = {224: _pair(2.0)[224]}
    with pytest.raises(BudgetError, match="least reachable latency is 4e-06 ms") as caught:
        best_of(alone, solve_milp)
    assert "variant" not in caught.value.message
    # One that has a choice stands in for one that has none.
    assert best_of(_pair(3.5), solve_milp)[0] == 192


def test_variants_that_cannot_be_compared() -> None:
    with pytest.raises(PlanError, match="no variants"):
        best_of({}, solve_milp)
    problems = _pair(2.0)
    with pytest.raises(PlanError, match="different objectives"):
        best_of({1: problems[224], 2: replace(problems[192], minimise="latency")}, solve_milp)
