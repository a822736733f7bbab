"""Limits on layers: which widths are left, and what is wrong with those that leave none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.dependency.groups import Dependencies
from hwprune.errors import PlanError, UsageError
from hwprune.planner.limits.widths import allowed_widths, bounds_of, offered_widths
from hwprune.solve.narrow import restricted
from hwprune.solve.problem import Choice, Concat, Domain, Limit, Problem, Term
from hwprune.target import Alignment, Target
from tests.small import SHAPE, Small

torch.set_num_threads(1)
CAPTURED = capture(Small(96), torch.zeros(SHAPE))
DEPS = analyse(CAPTURED)
GRAPH = CAPTURED.graph.graph


def target(multiple: int) -> Target:
    aligned = Alignment(conv2d=multiple, depthwise=multiple, linear=1)
    return Target(name=f"t{multiple}", kind="cpu", tvm={"kind": "llvm"}, alignment={"float32": aligned})


def offer(limits: dict[str, tuple[float, float]], multiple: int = 16, **options: float):
    bounds = bounds_of(DEPS, limits)
    offered = offered_widths(DEPS, GRAPH, [target(multiple)], bounds=bounds, **options)  # type: ignore[arg-type]
    return offered, allowed_widths(offered, DEPS, bounds)


def names(deps: Dependencies) -> list[str]:
    return [group.name for group in deps.groups]


def test_a_limit_narrows_the_groups_of_the_layers_that_it_names():
    assert names(DEPS) == ["stem.0", "a.0"]
    offered, allowed = offer({"a.*": (0.5, 0.75)})
    assert offered["stem.0"].widths == (16, 32, 48, 64, 80, 96)
    # The full size stays known, since the dense network has it; it is not allowed.
    assert offered["a.0"].widths == (48, 64, 96)
    assert allowed == {"a.0": (48, 64)}
    # The residual sum ties b to stem: a limit on one is a limit on the group.
    assert offer({"b": (0.9, 1.0)})[1] == {"stem.0": (96,)}
    assert offer({"*": (0.5, 0.5)})[1] == {"stem.0": (48,), "a.0": (48,)}


def test_all_patterns_that_match_a_group_count_and_the_minimum_too():
    assert offer({"a.*": (0.3, 1.0), "a.0": (0.0, 0.7)})[1] == {"a.0": (32, 48, 64)}
    assert offer({"a.0": (0.0, 0.7)}, minimum=0.4)[1] == {"a.0": (48, 64)}


def test_steps_are_spent_within_the_limit():
    offered, allowed = offer({"a.0": (0.5, 1.0)}, multiple=2, steps=4)
    assert allowed["a.0"] == (48, 64, 80, 96)
    assert len(offered["stem.0"].widths) == 4


def test_widths_of_a_fleet_suit_every_target():
    offered = offered_widths(DEPS, GRAPH, [target(8), target(12)])
    assert offered["a.0"].multiple == 24
    assert offered["a.0"].widths == (24, 48, 72, 96)
    alone = offered_widths(DEPS, GRAPH, [target(16)])
    assert alone["a.0"].widths == (16, 32, 48, 64, 80, 96)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"nosuch.*": (0.0, 0.5)}, "'nosuch.*' matches no layer"),
        ({"head": (0.0, 0.5)}, "only layers that cannot be pruned: head"),
        ({"a.0": (0.0, 0.25), "a.*": (0.5, 1.0)}, "'a.*' and 'a.0' contradict each other for group 'a.0'"),
        ({"a.0": (0.6, 0.5)}, "not a range"),
        ({"a.0": (float("nan"), 0.5)}, "not a range"),
        ({"a.0": (0.0, 1.5)}, "not a range"),
    ],
)
def test_limits_that_make_no_sense(limits: dict[str, tuple[float, float]], message: str):
    with pytest.raises(UsageError) as caught:
        bounds_of(DEPS, limits)
    assert message in caught.value.message
    assert caught.value.hint


def test_a_limit_that_leaves_no_aligned_width_names_the_nearest():
    with pytest.raises(PlanError) as caught:
        offer({"a.0": (0.52, 0.6)})
    assert "leaves no aligned width of group 'a.0'" in caught.value.message
    assert "the nearest are 48 (50.0%) and 64 (66.7%)" in caught.value.message
    assert "'a.0'" in caught.value.message


def test_a_restricted_problem_prices_what_is_left_as_before():
    random = np.random.default_rng(0)
    domains = tuple(Domain(g, (1, 2, 4), tuple(random.random(3))) for g in "abc")
    concat = Concat("ab", ("a", "b"), (1, 3))
    whole = Problem(domains, (), concats=(concat,))
    levels = len(whole.all_levels["ab"])
    terms = (
        Term("one", ("a", "c"), random.random((3, 3))),
        Term("two", ("ab", "c"), random.random((levels, 3))),
        Term("three", ("b",), random.random(3)),
    )
    whole = Problem(domains, (Limit("latency", terms, 1.0, 5.0),), concats=(concat,))
    smaller = restricted(whole, {"a": (1, 4), "b": (2,)})
    assert [d.widths for d in smaller.domains] == [(1, 4), (2,), (1, 2, 4)]
    for a, c in itertools.product((1, 4), (1, 2, 4)):
        choice = Choice({"a": a, "b": 2, "c": c})
        assert smaller.value(choice) == whole.value(choice)
        assert smaller.usage(smaller.limits[0], choice) == whole.usage(whole.limits[0], choice)
    with pytest.raises(PlanError, match="group 'c'"):
        restricted(whole, {"c": ()})
