"""The optimal solvers against trying everything, and at the sizes of real networks."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from hwprune.errors import BudgetError
from hwprune.solve.cpsat import CpSatProgram
from hwprune.solve.elimination import Elimination
from hwprune.solve.highs import HighsProgram
from hwprune.solve.milp import solve_exactly, solve_milp
from hwprune.solve.model import build_model
from hwprune.solve.problem import Domain, Limit, Problem, Solution, Term
from hwprune.solve.solvers import solve
from tests.solve import instances
from tests.solve.strategies import brute_force, choices, least, problems

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
Solve = Callable[[Problem], Solution]


def _check(solver: Solve, problem: Problem) -> None:
    best = brute_force(problem)
    if best is None:
        with pytest.raises(BudgetError):
            solver(problem)
        return
    solution = solver(problem)
    assert problem.keeps(solution.choice)
    assert solution.objective == best == problem.objective(solution.choice)
    assert solution.value == problem.value(solution.choice)
    assert solution.usage == {x.name: problem.usage(x, solution.choice) for x in problem.limits}
    assert solution.bound == pytest.approx(best, rel=1e-6, abs=1e-6) and solution.bound >= best
    assert solution.gap <= 2e-6


@settings(max_examples=220, deadline=None, suppress_health_check=SLOW)
@given(problems())
def test_equals_brute_force(problem: Problem) -> None:
    _check(lambda p: solve_milp(p, gap=0.0), problem)


@settings(max_examples=20, deadline=None, suppress_health_check=SLOW)
@given(problems())
def test_the_answer_is_always_the_same(problem: Problem) -> None:
    assert _choice(problem) == _choice(problem)


def _choice(problem: Problem) -> object:
    try:
        return solve_milp(problem).choice
    except BudgetError as error:
        return str(error)


@pytest.mark.parametrize("backend", [HighsProgram, CpSatProgram])
@settings(max_examples=50, deadline=None, suppress_health_check=SLOW)
@given(problem=problems())
def test_the_linear_form_alone_equals_brute_force(backend, problem: Problem) -> None:
    # Without the bounds that rule out most of it beforehand.
    _check(
        lambda p: solve_exactly(p, backend, "x", time_limit_s=30, gap=0.0, reduce=False, greedy=False),
        problem,
    )


@settings(max_examples=50, deadline=None, suppress_health_check=SLOW)
@given(problems(plain=True))
def test_an_unreachable_budget_names_the_least(problem: Problem) -> None:
    if brute_force(problem) is not None:
        return
    with pytest.raises(BudgetError, match="least reachable") as error:
        solve_milp(problem)
    match = re.search(r"latency is (\S+) ms", error.value.message)
    assert match
    named = float(match[1]) * 1e6
    # Rounded up, so that the number in the message can be asked for.
    assert least(problem, "latency") <= named <= least(problem, "latency") * (1 + 1.001e-5)
    assert solve_milp(problem.limited(named)).latency_ns <= named


def test_a_least_budget_whose_product_falls_short_can_still_be_asked_for() -> None:
    least_ns = 1_000_020.0
    assert least_ns > 1.00002 * 1e6
    domain = Domain("a", (8, 16), (1.0, 2.0))
    limit = Limit("latency", (Term("k", ("a",), np.array([least_ns, 2e6])),), 0.0, 1.0)
    with pytest.raises(BudgetError, match="least reachable") as error:
        solve_milp(Problem((domain,), (limit,)))
    match = re.search(r"latency is (\S+) ms", error.value.message)
    assert match and float(match[1]) * 1e6 >= least_ns
    assert float(match[1]) == pytest.approx(1.00002)


@settings(max_examples=80, deadline=None, suppress_health_check=SLOW)
@given(problems())
def test_elimination_equals_brute_force(problem: Problem) -> None:
    model = build_model(problem)
    every = list(choices(problem))
    levels = np.array([model.levels(choice) for choice in every])
    rows = model.price(levels)
    assert rows[0] == pytest.approx([problem.objective(choice) for choice in every])
    for row, name in enumerate(model.rows):
        if name.startswith("limit "):
            limit = problem.limit(name.removeprefix("limit "))
            assert rows[row] == pytest.approx([problem.usage(limit, choice) for choice in every])
    weights = np.random.default_rng(len(every)).normal(size=len(model.rows))
    totals = weights @ (rows - model.constant[:, None])
    size = 1e-9 * (1 + np.abs(totals).max())
    for entries in (10**6, 12):
        elimination = Elimination(model, entries)
        swept = elimination.sweep(weights)
        assert swept.best >= totals.max() - size
        reach = elimination.marginals(swept)
        for factor, found in zip(model.factors, reach, strict=True):
            best = np.full(factor.shape, -np.inf)
            np.maximum.at(best, tuple(levels[:, a] for a in factor.axes), totals)
            assert (found >= best - size).all()
            if elimination.exact:
                assert (np.isneginf(found) == np.isneginf(best)).all()
                assert found[np.isfinite(found)] == pytest.approx(best[np.isfinite(best)], abs=size)
        if elimination.exact:
            reached = weights @ (model.price(swept.levels[None, :])[:, 0] - model.constant)
            assert reached == pytest.approx(totals.max(), abs=size)
            assert swept.best == pytest.approx(totals.max(), abs=size)


NETWORKS = ["resnet50", "mobilenet_v2", "vgg16", "densenet121", "efficientnet_b0", "vit_b_16", "swin_t"]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_solved_to_the_gap_deterministically_and_silently(name: str, capfd) -> None:
    problem = getattr(instances, f"{name}_like")(0.4, steps=5)
    one, two = solve_milp(problem), solve_milp(problem)
    assert one.gap <= 1e-4 and problem.keeps(one.choice)
    assert one.bound >= one.value and (one.choice, one.bound) == (two.choice, two.bound)
    assert capfd.readouterr() == ("", "")


def test_bounds_and_the_linear_form_agree_on_a_network() -> None:
    problem = instances.resnet50_like(0.4, steps=4, depth=True)
    fast = solve_milp(problem, gap=1e-6)
    slow = solve_exactly(problem, HighsProgram, "x", time_limit_s=60, gap=1e-6, reduce=False)
    assert fast.value == pytest.approx(slow.value, rel=2e-6)
    assert fast.bound >= slow.value and slow.bound >= fast.value


def test_no_time_still_gives_a_feasible_choice_and_an_honest_bound() -> None:
    problem = instances.resnet50_like(0.4)
    hasty, proven = solve_milp(problem, time_limit_s=0.0), solve_milp(problem)
    assert problem.keeps(hasty.choice)
    assert hasty.bound >= proven.value and hasty.value <= proven.bound


@pytest.mark.parametrize("name", ["mobilenet_v2", "vit_b_16"])
def test_both_solvers_agree_on_a_network(name: str) -> None:
    problem = getattr(instances, f"{name}_like")(0.3, steps=5)
    one, other = (solve(problem, solver=solver, gap=1e-6) for solver in ("milp", "cpsat"))
    assert one.solver == "milp" and other.solver == "cpsat" and other.gap <= 2e-6
    assert other.value == pytest.approx(one.value, rel=3e-6)
    assert problem.keeps(other.choice)


def test_a_removable_block_is_worth_having_at_a_small_budget() -> None:
    fixed = instances.resnet50_like(0.12, steps=5)
    depth = instances.resnet50_like(0.12, steps=5, depth=True)
    wide, deep = solve_milp(fixed), solve_milp(depth)
    assert deep.removed and deep.value > wide.value
    assert all(deep.widths[d.group] == 0 for d in depth.domains if d.block in deep.removed)
