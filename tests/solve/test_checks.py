"""Problems that contradict themselves are refused with the place."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from hwprune.errors import PlanError
from hwprune.solve.problem import Block, Concat, Domain, Limit, Problem, Term
from hwprune.solve.solvers import SOLVERS, solve

A = Domain("a", (1, 2, 4), (1.0, 2.0, 3.0))
B = Domain("b", (2, 4), (0.0, 5.0), "x")
GOOD = Problem((A, B), (Limit("latency", (), 0.0, 1.0),), (Block("x"), Block("y")))


def _cost(axes: tuple[str, ...], cost: np.ndarray, block: str | None = None) -> Problem:
    return replace(GOOD, limits=(Limit("latency", (Term("t", axes, cost, block),), 0.0, 1.0),))


def _cat(*concats: Concat) -> Problem:
    return replace(GOOD, concats=concats)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (replace(GOOD, domains=(A, A)), "'a' has two domains"),
        (replace(GOOD, domains=(Domain("a", (2, 1), (0.0, 1.0)),)), "do not ascend"),
        (replace(GOOD, domains=(Domain("a", (), ()),)), "do not ascend"),
        (replace(GOOD, domains=(Domain("a", (1, 2), (0.0,)),)), "'a': needs one finite value"),
        (replace(GOOD, domains=(Domain("a", (1,), (np.nan,)),)), "'a': needs one finite value"),
        (replace(GOOD, domains=(replace(A, block="z"),)), "'a' lies in the unknown block 'z'"),
        (replace(GOOD, blocks=(Block("x"), Block("x"))), "two blocks named 'x'"),
        (replace(GOOD, blocks=(Block("x", np.inf),)), "'x' is worth inf"),
        (_cat(Concat("a", ("a",), (1,))), "'a' names two"),
        (_cat(Concat("c", ("a",), (1,)), Concat("c", ("a",), (1,))), "'c' names two"),
        (_cat(Concat("c", ("a", "b"), (1,))), "'c' needs one channel count"),
        (_cat(Concat("c", (), ())), "'c' needs one channel count"),
        (_cat(Concat("c", ("a",), (0,))), "'c' has channel counts"),
        (_cat(Concat("c", ("z",), (1,))), "'c' depends on 'z'"),
        (
            replace(_cat(Concat("c", ("a", "b"), (1, 1))), domains=(replace(A, block="y"), B)),
            "'c' reads groups of the blocks 'x' and 'y'",
        ),
        (_cost(("z",), np.ones(3)), "'t' of limit 'latency' depends on 'z'"),
        (_cost(("a",), np.ones(2)), r"'t' of limit 'latency' has shape \(2,\), its groups have \(3,\)"),
        (_cost(("a",), np.array([1, np.nan, np.nan])), r"missing .*2 of 3 widths, the first a=2"),
        (_cost(("a",), np.ones(3), "z"), "unknown block 'z'"),
        (_cost(("b",), np.ones(2)), "reads a group of block 'x' but does not lie in it"),
        (_cost(("b",), np.ones(2), "y"), "reads a group of block 'x' but does not lie in it"),
        (GOOD.limited(float("nan")), "limit 'latency'.*not a number"),
        (replace(GOOD, limits=()), "no limit"),
        (replace(GOOD, limits=GOOD.limits * 2), "two limits named 'latency'"),
        (replace(GOOD, minimise="speed"), "no limit 'speed'"),
        (replace(GOOD, floor=float("nan")), "not a number"),
    ],
)
@pytest.mark.parametrize("solver", ["milp", "greedy", "uniform", "knapsack"])
def test_contradictory_problems_are_refused(solver: str, problem: Problem, words: str) -> None:
    with pytest.raises(PlanError, match=words) as error:
        solve(problem, solver=solver)
    assert error.value.hint


def test_unknown_solvers_are_refused_with_the_known_ones() -> None:
    with pytest.raises(PlanError, match="no solver 'gredy'; did you mean 'greedy'") as error:
        solve(GOOD, solver="gredy")
    assert all(name in str(error.value) for name in SOLVERS)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in the table of modules makes every import of it fail.
    monkeypatch.setitem(sys.modules, "ortools.sat.python.cp_model", None)
    with pytest.raises(PlanError, match="needs OR-Tools") as error:
        solve(GOOD, solver="cpsat")
    assert "hwprune[cpsat]" in str(error.value)
