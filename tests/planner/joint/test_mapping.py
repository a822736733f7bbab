"""What a vector stands for."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.planner.joint.mapping import Architecture, Mapping
from hwprune.planner.joint.space import Space
from hwprune.planner.joint.stages import Stage
from hwprune.solve.problem import Block, Domain, Limit, Problem

STAGES = (Stage("one", ("b1", "b2", "b3")), Stage("two", ("c1", "c2")))
SIZES = (128, 160, 224)
PROBLEM = Problem(
    (
        Domain("a", (8, 24, 40, 64), (1.0, 2.0, 3.0, 4.0)),
        Domain("fixed", (10,), (1.0,)),
        Domain("inner", (16, 32, 48), (1.0, 2.0, 3.0), block="b2"),
        Domain("last", (16, 32), (1.0, 2.0), block="c2"),
    ),
    (Limit("latency", (), 0.0, 1.0),),
    tuple(Block(name) for stage in STAGES for name in stage.blocks),
)
SPACE = Space.of(PROBLEM, STAGES, SIZES)
MAPPING = Mapping(SPACE, PROBLEM, STAGES, len(SIZES))
VECTORS = st.lists(st.floats(-0.2, 1.2), min_size=6, max_size=6).map(np.array)


def test_coordinates_are_what_can_change() -> None:
    assert [(c.kind, c.name) for c in SPACE.coordinates] == [
        ("width", "a"),
        ("width", "inner"),
        ("width", "last"),
        ("depth", "one"),
        ("depth", "two"),
        ("resolution", "resolution"),
    ]


def test_widths_go_down_depth_up_and_resolution_to_the_nearest() -> None:
    found = MAPPING.at(np.array([39.9 / 64, 0.5, 1.0, 0.34, 0.5, 0.63]))
    assert found.choice.widths == {"a": 24, "fixed": 10, "inner": 16, "last": 0}
    assert found.choice.removed == {"b3", "c2"}
    assert SIZES[found.variant] == 128  # 0.63 lies nearer to 0.571 than to 0.714
    assert MAPPING.at(np.array([40 / 64, 1.0, 1.0, 1 / 3, 1.0, 0.65])).choice.removed == {"b2", "b3"}


def test_everything_is_the_dense_network() -> None:
    assert MAPPING.at(SPACE.dense) == Architecture(2, PROBLEM.dense)


@settings(max_examples=300, deadline=None)
@given(VECTORS)
def test_an_architecture_stands_for_itself(v: np.ndarray) -> None:
    found = MAPPING.at(v)
    again = MAPPING.vector(found, inside=SPACE.clip(v))
    assert MAPPING.at(again) == found
    np.testing.assert_allclose(MAPPING.vector(MAPPING.at(again), inside=again), again)


@settings(max_examples=300, deadline=None)
@given(VECTORS, st.lists(st.floats(0, 0.5), min_size=6, max_size=6).map(np.array))
def test_more_is_never_less(v: np.ndarray, more: np.ndarray) -> None:
    small, large = MAPPING.at(v), MAPPING.at(v + more)
    assert small.variant <= large.variant
    assert small.choice.removed >= large.choice.removed
    assert all(small.choice.widths[g] <= large.choice.widths[g] for g in small.choice.widths)
