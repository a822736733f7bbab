"""The solver against trying everything, and at the sizes of real networks."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import OptimizeResult

from hwprune.errors import BudgetError, PlanError
from hwprune.solve.formulation import formulate
from hwprune.solve.milp import least_latency, solve_milp
from hwprune.solve.problem import Choice, Domain, Problem, Term
from hwprune.solve.terms import latency_of, merge_terms
from tests.solve.instances import mobilenet_v2_like, resnet50_like, vgg16_like
from tests.solve.strategies import brute_force, choices, problems

A = Domain("a", (1, 2, 4), (1.0, 2.0, 3.0))
B = Domain("b", (2, 4), (0.0, 5.0))


@settings(max_examples=300, deadline=None)
@given(problems())
def test_equals_brute_force(problem: Problem) -> None:
    best, least = brute_force(problem)
    if best is None:
        with pytest.raises(BudgetError, match="least reachable") as error:
            solve_milp(problem, gap=0.0)
        match = re.search(r"latency is (\S+) ms", error.value.message)
        assert match
        named = float(match[1])
        # Rounded up, so that the number in the message can be asked for.
        assert least <= named * 1e6 <= least * (1 + 1.001e-5)
        assert solve_milp(problem.limited(named * 1e6)).latency_ns <= named * 1e6
        return
    solution = solve_milp(problem, gap=0.0)
    assert solution.value == best == problem.value(Choice(solution.widths))
    assert solution.latency_ns == latency_of(problem, solution.widths) <= problem.limits[0].at_most
    assert solution.bound == pytest.approx(best, rel=1e-6, abs=1e-6) and solution.bound >= best
    assert solution.gap <= 1e-6


@settings(max_examples=50, deadline=None)
@given(problems())
def test_least_latency_equals_brute_force(problem: Problem) -> None:
    widths, least = least_latency(problem)
    assert least == latency_of(problem, widths) == brute_force(problem)[1]


@settings(max_examples=100, deadline=None)
@given(problems())
def test_merged_terms_price_every_choice_alike(problem: Problem) -> None:
    constant, merged = merge_terms(problem)
    assert len({m.axes for m in merged}) == len(merged)
    for widths in choices(problem):
        index = [d.widths.index(widths[d.group]) for d in problem.domains]
        total = constant + sum(float(m.cost_ns[tuple(index[a] for a in m.axes)]) for m in merged)
        assert total == pytest.approx(latency_of(problem, widths))


def test_terms_over_the_same_groups_share_their_variables() -> None:
    cost = np.arange(6.0).reshape(3, 2)
    one = Problem.of_latency((A, B), (Term("t", ("a", "b"), cost),), 0.0, 3.0)
    terms = (*one.limits[0].terms, Term("u", ("b", "a"), cost.T), Term("v", ("a", "a"), np.eye(3)))
    two = Problem.of_latency((A, B), terms, 0.0, 3.0)
    assert len(formulate(two).value) == len(formulate(one).value) == 3 + 2 + 6


def test_a_group_at_both_ends_is_priced_on_the_diagonal() -> None:
    # Off the diagonal everything is free: a relaxation that misses that would keep width 4.
    cost = np.diag([1.0, 5.0, 9.0])
    solution = solve_milp(Problem.of_latency((A,), (Term("t", ("a", "a"), cost),), 0.0, 6.0))
    assert solution.widths == {"a": 2} and solution.latency_ns == 5.0


def test_dense_budget_returns_the_dense_model_with_its_proof() -> None:
    problem = Problem.of_latency((A, B), (Term("t", ("a", "b"), np.ones((3, 2))),), 1.0, 2.0)
    solution = solve_milp(problem)
    assert solution.widths == {"a": 4, "b": 4} and solution.gap == 0.0 and solution.bound == 8.0
    assert solve_milp(Problem.of_latency((), (), 1.0, 2.0)).widths == {}


def test_a_faster_wider_choice_is_found() -> None:
    # Measured staircases are not monotone: width 2 is slower than both of its neighbours.
    slow = Term("t", ("a",), np.array([3.0, 9.0, 5.0]))
    solution = solve_milp(
        Problem.of_latency((A, B), (slow, Term("u", ("b",), np.array([0.0, 4.0]))), 0.0, 5.0)
    )
    assert solution.widths == {"a": 4, "b": 2}


def test_fixed_latency_alone_above_the_budget() -> None:
    with pytest.raises(BudgetError, match="least reachable latency is 7e-06 ms"):
        solve_milp(Problem.of_latency((A,), (Term("t", ("a",), np.array([2.0, 3.0, 4.0])),), 5.0, 3.0))


def test_choice_within_the_tolerance_of_the_budget_is_still_refused() -> None:
    # 1e-10 above the budget, relatively: far inside what a solver calls feasible.
    budget = 1e6
    cost = np.array([0.5e6, 0.9e6, budget * (1 + 1e-10)])
    solution = solve_milp(Problem.of_latency((A,), (Term("t", ("a",), cost),), 0.0, budget))
    assert solution.widths == {"a": 2}


def test_what_is_cut_off_makes_room_for_the_optimum_and_not_for_greed() -> None:
    # All of it is 1e-10 too slow. Narrowing b is just enough and costs 0.5; greed would narrow a.
    a, b = Domain("a", (1, 2), (9.0, 10.0)), Domain("b", (1, 2), (9.5, 10.0))
    terms = (Term("a", ("a",), np.array([1e5, 6e5])), Term("b", ("b",), np.array([4e5, 4e5 + 1e-4])))
    solution = solve_milp(Problem.of_latency((a, b), terms, 0.0, 1e6))
    assert solution.widths == {"a": 2, "b": 1} and solution.latency_ns == 1e6


def test_many_choices_just_above_the_budget() -> None:
    # 3^4 choices within the tolerance, all too slow: neither accepted nor endlessly cut off.
    domains = tuple(Domain(g, (1, 2, 3, 4), (0.0, 7.0, 8.0, 9.0)) for g in "abcd")
    cost = np.array([0.1e6, 0.25e6 * (1 + 1e-11), 0.25e6 * (1 + 2e-11), 0.25e6 * (1 + 3e-11)])
    problem = Problem.of_latency(domains, tuple(Term(g, (g,), cost) for g in "abcd"), 0.0, 1e6)
    best, _ = brute_force(problem)
    solution = solve_milp(problem)
    assert solution.latency_ns <= 1e6 and solution.value == best == 27.0 and solution.bound >= 27.0


def test_too_large_a_coupling_is_named() -> None:
    wide = [Domain(g, tuple(range(1, 41)), tuple(map(float, range(40)))) for g in "abc"]
    term = Term("concat.conv", ("a", "b", "c"), np.ones((40, 40, 40)))
    with pytest.raises(PlanError, match=r"concat\.conv.*a, b, c.*64000"):
        solve_milp(Problem.of_latency(tuple(wide), (term,), 0.0, 0.5))


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (Problem.of_latency((A, A), (), 0.0, 1.0), "'a' has two domains"),
        (Problem.of_latency((Domain("a", (2, 1), (0.0, 1.0)),), (), 0.0, 1.0), "do not ascend"),
        (Problem.of_latency((Domain("a", (), ()),), (), 0.0, 1.0), "do not ascend"),
        (Problem.of_latency((Domain("a", (1, 2), (0.0,)),), (), 0.0, 1.0), "one finite value"),
        (Problem.of_latency((A,), (Term("t", ("x",), np.ones(3)),), 0.0, 1.0), "'t' depends on 'x'"),
        (Problem.of_latency((A,), (Term("t", ("a",), np.ones(2)),), 0.0, 1.0), r"shape \(2,\)"),
        (Problem.of_latency((A,), (Term("t", ("a",), np.array([1, 2, np.nan])),), 0.0, 1.0), "not finite"),
        (Problem.of_latency((A,), (), 0.0, float("nan")), "not a number"),
    ],
)
def test_contradictory_problems_are_refused(problem: Problem, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        solve_milp(problem)


@pytest.mark.parametrize("network", [resnet50_like, mobilenet_v2_like, vgg16_like])
def test_networks_are_solved_to_the_gap_deterministically_and_silently(network, capfd) -> None:
    problem = network(0.5)
    one, two = solve_milp(problem), solve_milp(problem)
    assert one.gap <= 1e-4 and one.latency_ns <= problem.limits[0].at_most
    assert one.bound >= one.value and (one.widths, one.bound) == (two.widths, two.bound)
    assert capfd.readouterr() == ("", "")


def test_no_time_still_gives_a_feasible_choice_and_an_honest_bound() -> None:
    problem = resnet50_like(0.4)
    hasty, proven = solve_milp(problem, time_limit_s=0.0), solve_milp(problem)
    assert hasty.latency_ns <= problem.limits[0].at_most
    assert hasty.bound >= proven.value and hasty.value <= proven.bound


def test_scaling_values_and_latencies_changes_nothing() -> None:
    problem = mobilenet_v2_like(0.5, steps=5)
    base = solve_milp(problem, gap=1e-6)
    for value, cost in ((1e-9, 1.0), (1e6, 1e-3), (1.0, 1e4)):
        scaled = Problem.of_latency(
            tuple(replace(d, values=tuple(v * value for v in d.values)) for d in problem.domains),
            tuple(replace(t, cost_ns=t.cost_ns * cost) for t in problem.limits[0].terms),
            problem.limits[0].fixed * cost,
            problem.limits[0].at_most * cost,
        )
        other = solve_milp(scaled, gap=1e-6)
        assert other.value / value == pytest.approx(base.value, rel=2e-6) and other.gap <= 1e-6


def test_unproven_failure_does_not_claim_to_be_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.of_latency((A,), (Term("t", ("a",), np.array([2.0, 3.0, 4.0])),), 5.0, 3.0)

    def out_of_time(*_arguments: object, **_options: object) -> OptimizeResult:
        return OptimizeResult(x=None, status=1)

    monkeypatch.setattr("hwprune.solve.milp.optimize.milp", out_of_time)
    with pytest.raises(BudgetError, match="not reached within 30 s; the least latency found is 7e-06 ms"):
        solve_milp(problem)
    # With a reachable budget, what greedy found is handed back with the trivial bound.
    solution = solve_milp(problem.limited(8.0))
    assert solution.widths == {"a": 2} and solution.bound == 3.0
