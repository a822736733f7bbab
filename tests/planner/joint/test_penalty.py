"""Slopes of the latency, from the table."""

from __future__ import annotations

import numpy as np
import pytest

from hwprune.planner.joint.mapping import Mapping
from hwprune.planner.joint.penalty import Penalty, enclosing
from hwprune.planner.joint.space import Coordinate, Space
from hwprune.planner.joint.stages import Stage
from hwprune.solve.problem import Block, Domain, Limit, Problem, Term

LEVELS = tuple(range(10, 101, 10))
WIDTHS = np.array(LEVELS, np.float64)
STAGE = Stage("stage", ("first", "second"))


def problem(latency: float, memory: float = np.inf) -> Problem:
    """``a`` costs its width, ``b`` nothing, ``c`` the square of its width in memory."""
    domains = tuple(Domain(g, LEVELS, tuple(map(float, LEVELS))) for g in "abc")
    blocks = tuple(Term(n, (), np.array(cost), n) for n, cost in zip(STAGE.blocks, (30.0, 50.0), strict=True))
    limits = (
        Limit("latency", (Term("a", ("a",), WIDTHS), *blocks), 20.0, latency),
        Limit("memory", (Term("c", ("c",), WIDTHS**2),), 0.0, memory, "B"),
    )
    return Problem(domains, limits, tuple(Block(n) for n in STAGE.blocks))


def penalty(*problems: Problem, sizes: tuple[int, ...] = ()) -> Penalty:
    space = Space.of(problems[-1], (STAGE,), sizes)
    return Penalty(Mapping(space, problems[-1], (STAGE,), len(problems)), problems)


def test_value_and_gradient_by_hand() -> None:
    of = penalty(problem(100.0, 2500.0))
    v = np.array([0.75, 0.35, 0.6, 1.0])  # a = 70, c = 60, both blocks: 170 and 3600
    found = of.mapping.at(v)
    assert of.value(found) == pytest.approx(0.7**2 + 0.44**2)
    assert of.share(found) == pytest.approx(1.7)
    gradient = of.gradient(v, np.full(4, 1e-3))
    assert gradient[0] == pytest.approx(2 * 0.7 * 100.0 / 100.0)
    assert gradient[1] == 0.0
    # Around the level 0.6: from 0.5 to 0.7.
    assert gradient[2] == pytest.approx(2 * 0.44 * (4900 - 2500) / 0.2 / 2500)
    # Of two blocks the second goes first, at the level 0.5.
    assert gradient[3] == pytest.approx(2 * 0.7 * 50.0 / 0.5 / 100.0)


def test_a_network_within_its_limits_has_no_slope() -> None:
    of = penalty(problem(171.0))
    v = np.array([0.75, 0.35, 0.6, 1.0])
    assert of.keeps(of.mapping.at(v)) and of.value(of.mapping.at(v)) == 0.0
    assert not of.gradient(v, np.full(4, 0.05)).any()


def test_resolution_has_the_slope_between_its_problems() -> None:
    of = penalty(problem(100.0), problem(100.0), sizes=(100, 200))
    cheap = Problem(of.problems[0].domains, (Limit("latency", (), 80.0, 100.0),), of.problems[0].blocks)
    of = penalty(cheap, of.problems[1], sizes=(100, 200))
    v = np.array([0.7, 1.0, 1.0, 1.0, 1.0])
    assert of.gradient(v, np.full(5, 0.01))[4] == pytest.approx(2 * 0.7 * (170.0 - 80.0) / 100.0 / 0.5)


def test_levels_around_an_interval() -> None:
    c = Coordinate("width", "g", (0.25, 0.5, 0.75, 1.0))
    assert enclosing(c, 0.6, 0.7) == (0.5, 0.75)
    assert enclosing(c, 0.4, 0.8) == (0.25, 1.0)
    assert enclosing(c, 0.5, 0.5) == (0.25, 0.5)
    assert enclosing(c, 0.1, 0.2) == (0.25, 0.5)
    assert enclosing(c, 1.1, 1.2) == (0.75, 1.0)
