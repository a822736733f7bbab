"""The searches that exist for comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from hwprune.errors import BudgetError, PlanError
from hwprune.solve.greedy import solve_greedy
from hwprune.solve.knapsack import solve_knapsack
from hwprune.solve.milp import solve_milp
from hwprune.solve.problem import Block, Choice, Domain, Limit, Problem, Solution, Term
from hwprune.solve.solvers import solve
from hwprune.solve.uniform import solve_uniform
from tests.solve.instances import latency_problem, mobilenet_v2_like, resnet50_like, vgg16_like, vit_b_16_like
from tests.solve.strategies import problems

SOLVERS = [solve_greedy, solve_uniform, solve_knapsack]


@pytest.mark.parametrize("search", SOLVERS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(problem=problems())
def test_never_above_budget_and_never_better_than_optimal(
    search: Callable[[Problem], Solution], problem: Problem
) -> None:
    if search is solve_knapsack and problem.minimise is not None:
        problem = replace(problem, minimise=None)
    try:
        found = search(problem)
    except BudgetError:
        return
    assert problem.keeps(found.choice)
    assert found.objective == problem.objective(found.choice)
    assert found.objective <= solve_milp(problem, gap=0.0).objective <= found.bound


@pytest.mark.parametrize("name", ["greedy", "uniform", "knapsack"])
@pytest.mark.parametrize("network", [resnet50_like, mobilenet_v2_like, vgg16_like, vit_b_16_like])
def test_feasible_on_networks_and_not_better_than_optimal(name: str, network) -> None:
    problem = network(0.5, steps=6)
    found, best = solve(problem, solver=name), solve(problem)
    assert problem.keeps(found.choice) and found.solver == name
    assert best.value * 0.8 < found.value <= best.value
    assert solve(problem, solver=name).choice == found.choice


def _two(budget: float, cost_a: list[float], cost_b: list[float]) -> Problem:
    a = Domain("a", (2, 4, 8), (2.0, 4.0, 8.0))
    b = Domain("b", (4, 6, 8), (4.0, 6.0, 8.0))
    terms = (Term("a", ("a",), np.array(cost_a)), Term("b", ("b",), np.array(cost_b)))
    return latency_problem((a, b), terms, 0.0, budget)


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


def _branch(budget: float) -> Problem:
    a = Domain("a", (2, 4, 8), (2.0, 4.0, 8.0))
    inner = Domain("inner", (4, 8), (1.0, 1.5), "branch")
    terms = (
        Term("a", ("a",), np.array([2.0, 4.0, 8.0])),
        Term("in", ("inner",), np.array([4.0, 5.0]), "branch"),
        Term("add", (), np.array(1.0), "branch"),
    )
    return Problem((a, inner), (Limit("latency", terms, 0.0, budget),), (Block("branch"),))


def test_greedy_removes_a_block_as_one_step() -> None:
    # Without the branch 6 is saved for 1.5 lost (4 each); the first step of a saves 1 each, and the
    # first of the branch's group 2 each.
    assert solve_greedy(_branch(8.0)).choice == Choice({"a": 8, "inner": 0}, frozenset({"branch"}))


def test_uniform_and_knapsack_keep_all_blocks() -> None:
    assert solve_uniform(_branch(8.0)).choice == Choice({"a": 2, "inner": 4})
    assert solve_knapsack(_branch(9.0)).choice == Choice({"a": 4, "inner": 4})
    with pytest.raises(BudgetError, match="knapsacks end where the latency is 7e-06 ms"):
        solve_knapsack(_branch(6.0))


def test_knapsack_holds_the_inputs_of_a_layer() -> None:
    # Alone, b pays for the layer between: narrowing it looks best. Narrowing a would save as much
    # for less, which only a search that sees both ends finds.
    a, b = Domain("a", (1, 2), (5.0, 6.0)), Domain("b", (1, 2), (4.0, 6.0))
    layer = Term("t", ("a", "b"), np.array([[1.0, 2.0], [2.0, 4.0]]))
    problem = Problem((a, b), (Limit("latency", (layer,), 0.0, 2.0),))
    assert solve_knapsack(problem).widths == {"a": 2, "b": 1}
    assert solve_milp(problem).widths == {"a": 1, "b": 2}


def test_knapsack_only_keeps_importance() -> None:
    with pytest.raises(PlanError, match="cannot minimise"):
        solve_knapsack(replace(_branch(8.0), minimise="latency", floor=1.0))


def test_greedy_lowers_the_latency_down_to_a_floor() -> None:
    problem = replace(_two(99.0, [1.0, 4.0, 8.0], [4.0, 5.0, 6.0]), minimise="latency", floor=11.0)
    assert solve_greedy(problem).widths == {"a": 4, "b": 8}
