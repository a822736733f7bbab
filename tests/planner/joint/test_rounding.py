"""From a vector to an architecture within its limits, and the stages that its depth counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.analysed import analyse_model
from hwprune.dependency.blocks import find_blocks
from hwprune.planner.joint.mapping import Mapping
from hwprune.planner.joint.rounding import round_feasibly
from hwprune.planner.joint.space import Space
from hwprune.planner.joint.stages import find_stages
from hwprune.solve.problem import Choice, Problem
from tests.nets import Residual
from tests.planner.joint.analytic import analytic_problem
from tests.planner.joint.setting import problem


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=2).map(np.array), st.floats(0.3, 1.0))
def test_rounding_keeps_the_budget_and_leaves_nothing_unused(v: np.ndarray, share: float) -> None:
    asked = problem(share)
    mapping = Mapping(Space.of(asked), asked, ())
    found = round_feasibly(mapping, [asked], v)
    limit = asked.limits[0]
    assert asked.usage(limit, found.choice) <= limit.at_most
    for domain in asked.domains:
        larger = [w for w in domain.widths if w > found.choice.widths[domain.group]]
        if larger:
            wider = replace(found.choice, widths={**found.choice.widths, domain.group: larger[0]})
            assert asked.usage(limit, wider) > limit.at_most


def test_a_vector_that_fits_keeps_all_it_asks_for() -> None:
    asked = problem(0.6)
    mapping = Mapping(Space.of(asked), asked, ())
    v = np.array([0.5, 0.75])
    assert asked.keeps(mapping.at(v).choice)
    found = round_feasibly(mapping, [asked], v).choice.widths
    assert all(found[g] >= w for g, w in mapping.at(v).choice.widths.items())


def test_a_stage_holds_the_removable_blocks_of_one_stream_in_their_order() -> None:
    captured, deps = analyse_model(Residual().eval(), torch.zeros(1, 3, 8, 8))
    blocks = find_blocks(captured, deps)
    assert [b.reason is None for b in blocks] == [True, True, False]
    (stage,) = find_stages(captured, deps, blocks)
    assert stage.blocks == tuple(b.name for b in blocks[:2])
    assert stage.blocks[0].startswith("a1") and stage.blocks[1].startswith("b1")
    fixed = [replace(b, reason="its shortcut is a projection") for b in blocks]
    assert find_stages(captured, deps, fixed) == ()


def test_of_a_stage_the_last_blocks_go_first() -> None:
    """With as much for either block, rounding keeps the first."""
    captured, deps = analyse_model(Residual().eval(), torch.zeros(1, 3, 8, 8))
    blocks = tuple(b for b in find_blocks(captured, deps) if b.reason is None)
    dense = analytic_problem(captured, deps, 1.0, step=2, branches=blocks)
    stages = find_stages(captured, deps, blocks)
    mapping = Mapping(Space.of(dense, stages), dense, stages)
    v = mapping.space.dense
    v[-1] = 0.5
    found = round_feasibly(mapping, [_within(dense, mapping.at(v).choice)], v)
    assert found.choice.removed == {blocks[1].name} == mapping.at(v).choice.removed
    assert found == mapping.at(v)


def _within(problem: Problem, choice: Choice) -> Problem:
    """The problem with just as much latency as a choice needs."""
    limit = problem.limits[0]
    return replace(problem, limits=(replace(limit, at_most=problem.usage(limit, choice)),))
