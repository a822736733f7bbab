"""The two searches that exist for comparison."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings

from hwprune.errors import BudgetError
from hwprune.solve.greedy import solve_greedy
from hwprune.solve.milp import solve_milp
from hwprune.solve.problem import Choice, Domain, Problem, Solution, Term
from hwprune.solve.terms import latency_of
from hwprune.solve.uniform import solve_uniform
from tests.solve.instances import mobilenet_v2_like, resnet50_like, vgg16_like
from tests.solve.strategies import problems

SOLVERS = [solve_greedy, solve_uniform]


@pytest.mark.parametrize("solve", SOLVERS)
@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_never_above_budget_and_never_better_than_optimal(
    solve: Callable[[Problem], Solution], problem: Problem
) -> None:
    try:
        found = solve(problem)
    except BudgetError:
        return
    assert found.latency_ns == latency_of(problem, found.widths) <= problem.limits[0].at_most
    assert found.value == problem.value(Choice(found.widths))
    assert found.value <= solve_milp(problem).value <= found.bound


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("network", [resnet50_like, mobilenet_v2_like, vgg16_like])
def test_feasible_on_networks_and_not_better_than_optimal(solve, network) -> None:
    problem = network(0.5)
    found, best = solve(problem), solve_milp(problem)
    assert found.latency_ns <= problem.limits[0].at_most
    assert best.value * 0.8 < found.value <= best.value
    assert solve(problem).widths == found.widths


def _two(budget: float, cost_a: list[float], cost_b: list[float]) -> Problem:
    a = Domain("a", (2, 4, 8), (2.0, 4.0, 8.0))
    b = Domain("b", (4, 6, 8), (4.0, 6.0, 8.0))
    terms = (Term("a", ("a",), np.array(cost_a)), Term("b", ("b",), np.array(cost_b)))
    return Problem.of_latency((a, b), terms, 0.0, budget)


def test_greedy_takes_the_step_with_the_best_rate() -> None:
    # a: 8 -> 4 saves 8 for 4 lost (2 each); b: 8 -> 6 saves 6 for 2 lost (3 each), then 1 for 2.
    problem = _two(14.0, [0.0, 2.0, 10.0], [3.0, 4.0, 10.0])
    assert solve_greedy(problem).widths == {"a": 8, "b": 6}
    assert solve_greedy(_two(13.0, [0.0, 2.0, 10.0], [3.0, 4.0, 10.0])).widths == {"a": 4, "b": 6}


def test_greedy_steps_over_flat_stretches() -> None:
    assert solve_greedy(_two(12.0, [5.0, 10.0, 10.0], [5.0, 5.0, 5.0])).widths == {"a": 2, "b": 8}


def test_greedy_says_that_it_is_stuck() -> None:
    problem = _two(9.0, [6.0, 6.0, 6.0], [5.0, 5.0, 5.0])
    with pytest.raises(BudgetError, match="greedy search ends"):
        solve_greedy(problem)


def test_uniform_takes_the_largest_common_fraction() -> None:
    # 0.75 gives a=4, b=6 (9 ns); 1 gives 14 ns; 0.5 would give b=4.
    problem = _two(9.0, [1.0, 4.0, 8.0], [4.0, 5.0, 6.0])
    assert solve_uniform(problem).widths == {"a": 4, "b": 6}
    with pytest.raises(BudgetError, match="no common fraction"):
        solve_uniform(_two(4.0, [1.0, 4.0, 8.0], [4.0, 5.0, 6.0]))
