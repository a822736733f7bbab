"""Which widths a group may take on a target."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.planner.widths import GroupWidths, group_widths
from hwprune.target import Alignment, Target
from tests.nets import Depthwise, Grouped, Plain

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def target(conv2d: int, depthwise: int, linear: int) -> Target:
    aligned = Alignment(conv2d=conv2d, depthwise=depthwise, linear=linear)
    return Target(name="t", kind="cpu", tvm={"kind": "llvm"}, alignment={"float32": aligned})


def widths(model: nn.Module, aligned: Target, **options: float) -> dict[str, GroupWidths]:
    captured = capture(model, IMAGE)
    return group_widths(analyse(captured), captured.graph.graph, aligned, **options)  # type: ignore[arg-type]


def test_every_layer_of_a_group_has_its_say():
    found = widths(Depthwise(), target(conv2d=2, depthwise=4, linear=1))
    # Through the depthwise convolution and convolutions on both sides.
    assert found["expand.0"].multiple == 4
    assert found["expand.0"].widths == (4, 8)
    found = widths(Depthwise(), target(conv2d=4, depthwise=1, linear=6))
    # The last convolution feeds the linear head: lcm(4, 6); its 8 channels are not a multiple.
    mix = found["mix.0"]
    assert mix.multiple == 12
    assert mix.widths == (8,)
    assert mix.exempt is not None
    assert "8 is not a multiple of 12" in mix.exempt


def test_linear_layers():
    found = widths(Plain(), target(conv2d=1, depthwise=1, linear=5))
    assert found["hidden"].multiple == 5
    assert found["hidden"].widths == (5, 10)
    # Depthwise alignment concerns no layer here.
    other = widths(Plain(), target(conv2d=1, depthwise=7, linear=5))
    assert other == found


def test_units_of_grouped_convolutions_stand_for_several_channels():
    captured = capture(Grouped(), IMAGE)
    deps = analyse(captured)
    found = group_widths(deps, captured.graph.graph, target(conv2d=4, depthwise=1, linear=1))
    group = next(g for g in deps.groups if g.channels_per_unit == 2)
    for width in found[group.name].widths:
        assert width * 2 % 4 == 0
    assert found[group.name].multiple == 4
    assert found[group.name].widths[-1] == group.size
    assert len(found[group.name].widths) > 1


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_full_size_is_always_on_offer_and_steps_bound_the_rest(steps: int):
    for each in widths(Plain(), target(2, 2, 2), steps=steps).values():
        assert len(each.widths) <= steps
    dense = {g.name: g.size for g in analyse(capture(Plain(), IMAGE)).groups}
    assert {g: w.widths[-1] for g, w in widths(Plain(), target(2, 2, 2), steps=steps).items()} == dense


def test_minimum_share():
    found = widths(Plain(), target(1, 1, 1), minimum=0.5)
    for each in found.values():
        assert each.widths[0] >= 0.5 * each.widths[-1]
    assert any(each.widths[0] < 0.5 * each.widths[-1] for each in widths(Plain(), target(1, 1, 1)).values())
