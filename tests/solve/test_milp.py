"""Known answers of the optimal solver, at the edges of its precision and of the limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwprune.errors import BudgetError
from hwprune.solve.exact import Exact
from hwprune.solve.formulation import Formulation
from hwprune.solve.highs import Answer, HighsProgram
from hwprune.solve.milp import solve_exactly, solve_milp
from hwprune.solve.problem import Block, Choice, Concat, Domain, Limit, Problem, Term
from tests.solve.instances import latency_problem, mobilenet_v2_like, resnet50_like
from tests.solve.strategies import brute_force

A = Domain("a", (1, 2, 4), (1.0, 2.0, 3.0))
B = Domain("b", (2, 4), (0.0, 5.0))


def _one(cost: np.ndarray | list[float], budget: float, fixed: float = 0.0) -> Problem:
    return latency_problem((A,), (Term("t", ("a",), np.array(cost)),), fixed, budget)


def test_terms_over_the_same_groups_share_their_variables() -> None:
    cost = np.arange(6.0).reshape(3, 2)
    one = latency_problem((A, B), (Term("t", ("a", "b"), cost),), 0.0, 3.0)
    terms = (*one.limits[0].terms, Term("u", ("b", "a"), cost.T), Term("v", ("a", "a"), np.eye(3)))
    memory = Limit("memory", (Term("m", ("b", "a"), cost.T),), 0.0, 1.0, "bytes")
    two = replace(one, limits=(replace(one.limits[0], terms=terms), memory))
    assert [f.axes for f in Exact(one).model.factors] == [f.axes for f in Exact(two).model.factors]


def test_a_group_at_both_ends_is_priced_on_the_diagonal() -> None:
    # Off the diagonal everything is free: a relaxation that misses that would keep width 4.
    term = Term("t", ("a", "a"), np.diag([1.0, 5.0, 9.0]))
    solution = solve_milp(latency_problem((A,), (term,), 0.0, 6.0))
    assert solution.widths == {"a": 2} and solution.latency_ns == 5.0


def test_dense_budget_returns_the_dense_model_with_its_proof() -> None:
    problem = latency_problem((A, B), (Term("t", ("a", "b"), np.ones((3, 2))),), 1.0, 2.0)
    solution = solve_milp(problem)
    assert solution.widths == {"a": 4, "b": 4} and solution.gap == 0.0 and solution.bound == 8.0
    assert solve_milp(latency_problem((), (), 1.0, 2.0)).widths == {}


def test_a_faster_wider_choice_is_found() -> None:
    # Measured staircases are not monotone: width 2 is slower than both of its neighbours.
    terms = (Term("t", ("a",), np.array([3.0, 9.0, 5.0])), Term("u", ("b",), np.array([0.0, 4.0])))
    assert solve_milp(latency_problem((A, B), terms, 0.0, 5.0)).widths == {"a": 4, "b": 2}


def test_choice_within_the_tolerance_of_the_budget_is_still_refused() -> None:
    # 1e-10 above the budget, relatively: far inside what a solver calls feasible.
    solution = solve_milp(_one([0.5e6, 0.9e6, 1e6 * (1 + 1e-10)], 1e6))
    assert solution.widths == {"a": 2}


def test_what_is_cut_off_makes_room_for_the_optimum_and_not_for_greed() -> None:
    # All of it is 1e-10 too slow. Narrowing b is just enough and costs 0.5; greed would narrow a.
    a, b = Domain("a", (1, 2), (9.0, 10.0)), Domain("b", (1, 2), (9.5, 10.0))
    terms = (Term("a", ("a",), np.array([1e5, 6e5])), Term("b", ("b",), np.array([4e5, 4e5 + 1e-4])))
    solution = solve_milp(latency_problem((a, b), terms, 0.0, 1e6))
    assert solution.widths == {"a": 2, "b": 1} and solution.latency_ns == 1e6


@pytest.mark.parametrize("reduce", [True, False])
def test_many_choices_just_above_the_budget(reduce: bool) -> None:
    # 3^4 choices within the tolerance, all too slow: neither accepted nor endlessly cut off.
    domains = tuple(Domain(g, (1, 2, 3, 4), (0.0, 7.0, 8.0, 9.0)) for g in "abcd")
    cost = np.array([0.1e6, 0.25e6 * (1 + 1e-11), 0.25e6 * (1 + 2e-11), 0.25e6 * (1 + 3e-11)])
    problem = latency_problem(domains, tuple(Term(g, (g,), cost) for g in "abcd"), 0.0, 1e6)
    solution = solve_exactly(problem, HighsProgram, "x", time_limit_s=30, gap=1e-4, reduce=reduce)
    assert solution.latency_ns <= 1e6 and solution.value == brute_force(problem) == 27.0
    assert solution.bound >= 27.0


def test_a_cost_over_three_wide_groups_is_solved() -> None:
    wide = tuple(Domain(g, tuple(range(1, 41)), tuple(map(float, range(40)))) for g in "abc")
    cost = np.add.outer(np.add.outer(np.arange(40.0), 2 * np.arange(40.0)), 3 * np.arange(40.0))
    solution = solve_milp(latency_problem(wide, (Term("t", ("a", "b", "c"), cost),), 0.0, 100.0))
    # Widths are worth the same, so the cheap one comes first: 39 + 2 * 30 = 99.
    assert solution.value == 69.0 and solution.latency_ns <= 100.0


def test_a_concatenation_of_many_groups_is_one_axis() -> None:
    # A staircase: up to 64 channels are free, then every 16 of them cost 1.
    groups = tuple(Domain(f"g{i}", (8, 16, 24, 32), (1.0, 2.0, 3.0, 4.0 + i / 100)) for i in range(12))
    cat = Concat("cat", tuple(g.group for g in groups), (1,) * 12)
    totals = np.array(Problem(groups, (), (), (cat,)).all_levels["cat"])
    latency = Limit("latency", (Term("t", ("cat",), np.ceil(np.maximum(totals - 64, 0) / 16)),), 0.0, 7.0)
    solution = solve_milp(Problem(groups, (latency,), (), (cat,)), gap=0.0)
    # 64 + 7 * 16 = 176 channels = 22 steps of 8, ten more than the least; three wholes with the
    # largest extra, and one single step.
    assert sum(solution.widths.values()) == 176
    assert solution.value == pytest.approx(22 + (11 + 10 + 9) / 100)


def test_a_block_goes_where_its_groups_are_worth_less_than_its_time() -> None:
    inner = Domain("inner", (4, 8), (1.0, 1.5), "branch")
    terms = (
        Term("outer", ("a",), np.array([1.0, 2.0, 4.0])),
        Term("in", ("a", "inner"), np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]), "branch"),
        Term("add", ("a",), np.array([0.5, 0.5, 0.5]), "branch"),
    )
    problem = Problem((A, inner), (Limit("latency", terms, 0.0, 4.5),), (Block("branch", 0.25),))
    # With the branch: a=2, inner=4 takes 4.5 and is worth 3.25; without it a=4 is worth 3.
    assert solve_milp(problem).choice == Choice({"a": 2, "inner": 4})
    assert solve_milp(problem.limited(4.4)).choice == Choice({"a": 4, "inner": 0}, frozenset({"branch"}))


def test_least_latency_for_an_importance() -> None:
    terms = (Term("t", ("a",), np.array([1.0, 2.0, 9.0])), Term("u", ("b",), np.array([1.0, 4.0])))
    problem = Problem((A, B), (Limit("latency", terms, 1.0),), minimise="latency", floor=7.0)
    solution = solve_milp(problem)
    assert solution.widths == {"a": 2, "b": 4} and solution.objective == -7.0 == -solution.latency_ns
    assert solution.gap <= 1e-9 and solution.value == 7.0


def test_several_limits_bind_at_once() -> None:
    slow = Limit("latency", (Term("t", ("a",), np.array([1.0, 2.0, 9.0])),), 0.0, 5.0)
    large = Limit("memory", (Term("m", ("b",), np.array([10.0, 30.0])),), 0.0, 20.0, "bytes")
    assert solve_milp(Problem((A, B), (slow, large))).widths == {"a": 2, "b": 2}
    assert solve_milp(Problem((A, B), (slow, replace(large, at_most=30.0)))).widths == {"a": 2, "b": 4}


def test_fixed_latency_alone_above_the_budget() -> None:
    with pytest.raises(BudgetError, match="least reachable latency is 7e-06 ms"):
        solve_milp(_one([2.0, 3.0, 4.0], 3.0, 5.0))


def test_unreachable_limits_name_the_closest() -> None:
    slow = Limit("latency", (Term("t", ("a",), np.array([1.0, 2.0, 9.0])),), 0.0, 5.0)
    large = Limit("memory", (Term("m", ("a",), np.array([10.0, 30.0, 40.0])),), 0.0, 9.0, "bytes")
    with pytest.raises(
        BudgetError, match=r"limit on 'memory'.* of 9 bytes.*least reachable memory is 10 bytes"
    ):
        solve_milp(Problem((A,), (slow, large)))
    problem = Problem((A, B), (slow,), minimise="latency", floor=8.5)
    with pytest.raises(BudgetError, match=r"importance of 8\.5 cannot be kept: the most is 8\n"):
        solve_milp(replace(problem, limits=(replace(slow, at_most=np.inf),)))


def test_limits_that_contradict_each_other_are_both_named() -> None:
    # Each can be kept alone: wide is slow, narrow is large.
    slow = Limit("latency", (Term("t", ("a",), np.array([1.0, 2.0, 9.0])),), 0.0, 5.0)
    large = Limit("memory", (Term("m", ("a",), np.array([50.0, 30.0, 10.0])),), 0.0, 20.0, "bytes")
    spare = Limit("parameters", (Term("p", ("b",), np.array([1.0, 2.0])),), 0.0, 1.5, "")
    with pytest.raises(BudgetError, match=r"'latency' .*and 'memory' .*contradict.*no less than 9e-06 ms"):
        solve_milp(Problem((A, B), (slow, spare, large)))
    floor = Problem((A, B), (slow,), minimise="latency", floor=8.0)
    with pytest.raises(BudgetError, match=r"'latency' .*and 'importance' .*contradict"):
        solve_milp(floor)


def test_scaling_values_and_latencies_changes_nothing() -> None:
    problem = mobilenet_v2_like(0.5, steps=5)
    base = solve_milp(problem, gap=1e-6)
    limit = problem.limits[0]
    for value, cost in ((1e-9, 1.0), (1e6, 1e-3), (1.0, 1e4)):
        scaled = latency_problem(
            tuple(replace(d, values=tuple(v * value for v in d.values)) for d in problem.domains),
            tuple(replace(t, cost_ns=t.cost_ns * cost) for t in limit.terms),
            limit.fixed * cost,
            limit.at_most * cost,
        )
        other = solve_milp(scaled, gap=1e-6)
        assert other.value / value == pytest.approx(base.value, rel=2e-6) and other.gap <= 1e-6


class _Idle:
    """A solver that runs out of time at once."""

    def __init__(self, form: Formulation, at_most: np.ndarray) -> None:
        del form, at_most

    def solve(self, *, gap: float, deadline: float, start: np.ndarray | None = None) -> Answer:
        del gap, deadline, start
        return Answer(None, np.inf)

    def forbid(self, levels: np.ndarray) -> None: ...

    def tighten(self, share: float) -> None: ...


def test_unproven_failure_does_not_claim_to_be_the_least() -> None:
    problem = _one([2.0, 3.0, 4.0], 3.0, 5.0)
    with pytest.raises(BudgetError, match="no choice was found"):
        solve_exactly(problem.limited(7.0), _Idle, "x", time_limit_s=30, gap=0.0, reduce=False, greedy=False)
    # With a reachable budget, what greedy found is handed back with the trivial bound.
    solution = solve_exactly(problem.limited(8.0), _Idle, "x", time_limit_s=30, gap=0.0, reduce=False)
    assert solution.widths == {"a": 2} and solution.bound == 3.0


def test_a_start_is_used_but_not_believed() -> None:
    problem = resnet50_like(0.5, steps=4)
    best = solve_milp(problem)
    again = solve_exactly(
        problem, _Idle, "x", time_limit_s=30, gap=1e-9, start=best.choice, reduce=False, greedy=False
    )
    assert again.choice == best.choice
    assert problem.keeps(solve_milp(problem, start=problem.dense).choice)
