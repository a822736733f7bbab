"""Kernels of several layers are points on one surface where only channel counts differ."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwprune.extent import Extent
from hwprune.latency.kernel import FamilyInput, KernelFamily, KernelOp
from hwprune.latency.shapes import Shape, candidates
from tests.planner.fakes import DOMAINS, dense_family, of

CONV = (("dilation", (1, 1)), ("groups", 1), ("padding", (1, 1, 1, 1)), ("stride", (1, 1)))


def conv(inputs: Extent, outputs: Extent, size: int = 14) -> KernelFamily:
    space = (Extent(size), Extent(size))
    return KernelFamily(
        "conv",
        (
            FamilyInput((Extent(1), inputs, *space), "data"),
            FamilyInput((outputs, inputs, Extent(3), Extent(3)), "weight"),
        ),
        (KernelOp("conv2d", (0, 1, -1), CONV),),
    )


def joined(*groups: str) -> Extent:
    return Extent(64, tuple((g, 1) for g in groups))


def test_names_of_groups_do_not_matter_but_everything_else_does():
    key = Shape(conv(of("a"), of("b"))).key
    assert Shape(conv(of("b"), of("c"))).key == key
    assert Shape(conv(of("a"), of("b"), size=7)).key != key
    assert Shape(conv(of("a"), Extent(64))).key != key
    assert Shape(conv(of("a"), of("a"))).key != key, "one width for both is another surface"
    assert Shape(replace(conv(of("a"), of("b")), plain_output=True)).key != key


def test_coordinates_are_channels_whoever_provides_them():
    shape = Shape(conv(of("a"), of("b")))
    concatenated = conv(joined("a", "b", "c"), of("d"))
    assert Shape(concatenated).key == shape.key
    spec = concatenated.at({"a": 16, "b": 32, "c": 48, "d": 80})
    assert shape.coordinates(spec) == (64 + 16 + 32 + 48, 80)
    assert shape.coordinates(conv(of("a"), of("b"), size=7).at({"a": 16, "b": 16})) is None


def test_multiples_of_one_width_are_one_coordinate():
    """Behind a flatten there are 49 features for every channel."""
    family = dense_family("flat", Extent(0, (("a", 49),)), of("b"))
    wide = replace(family, inputs=(FamilyInput((Extent(1), of("a"), Extent(7)), "data"), *family.inputs[1:]))
    shape = Shape(wide)
    spec = wide.at({"a": 16, "b": 32})
    assert shape.coordinates(spec) == (16, 32)
    wrong = replace(spec, inputs=(spec.inputs[0], replace(spec.inputs[1], shape=(32, 16 * 49 + 1))))
    assert shape.coordinates(wrong) is None


def test_candidates_are_all_choices_or_levels_of_many_groups():
    places = candidates(conv(of("a"), of("b")), DOMAINS)
    assert set(places) == {(a, b) for a in DOMAINS["a"] for b in DOMAINS["b"]}
    groups = tuple(f"g{n}" for n in range(20))
    family = conv(joined(*groups), of("out"))
    domains = {**dict.fromkeys(groups, (16, 32)), "out": (16, 32, 48, 64)}
    places = candidates(family, domains)
    assert {place[1] for place in places} == {16, 32, 48, 64}
    assert {place[0] for place in places} == {64 + 20 * 16, 64 + 20 * 32}
    for place, spec in places.items():
        assert Shape(family).coordinates(spec) == place


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_concatenation_has_two_coordinates(count: int):
    groups = [f"g{n}" for n in range(count)]
    inputs = tuple(FamilyInput((Extent(1), of(g), Extent(7), Extent(7)), "data") for g in groups)
    family = KernelFamily("cat", inputs, (KernelOp("cat", tuple(range(count))),))
    spec = family.at({g: 16 * (n + 1) for n, g in enumerate(groups)})
    assert Shape(family).coordinates(spec) == (count, 16 * count * (count + 1) // 2)
    other = KernelFamily("cat", (*inputs, inputs[0]), (KernelOp("cat", tuple(range(count + 1))),))
    assert Shape(other).key == Shape(family).key
