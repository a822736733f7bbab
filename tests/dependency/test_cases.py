"""Every construction that channel pruners are known to get wrong, cut to random widths."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hwprune.capture import Captured, capture
from hwprune.dependency import Dependencies, analyse
from hwprune.planner.widths import GroupWidths, group_widths
from hwprune.surgery import cut_graph, prune_model, verify
from hwprune.target import load_target
from tests.dependency import cases_blocks, cases_layers
from tests.dependency.case import CASES, Case, head, stem
from tests.dependency.exact import settled, trained_step

assert cases_blocks and cases_layers  # importing them has registered their networks


@cache
def _analysed(name: str) -> tuple[Case, Captured, Dependencies]:
    found = CASES[name]
    torch.manual_seed(3)
    inputs = tuple(x.double() for x in found.inputs)
    captured = capture(settled(found.make()), inputs)
    return found, captured, analyse(captured)


@pytest.mark.parametrize("name", CASES)
def test_groups_and_reasons(name: str) -> None:
    found, _, deps = _analysed(name)
    assert {g.name: g.size for g in deps.groups} == found.groups, deps.ledger
    reasons = {line.name: line.reason for line in deps.ledger}
    for layer, reason in found.declined.items():
        assert reason in reasons[layer]


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_random_widths_are_exact(name: str, data: st.DataObject) -> None:
    """Any units of any groups, in float64, and a training step after the cut."""
    _, captured, deps = _analysed(name)
    keep = {
        g.name: sorted(data.draw(st.sets(st.integers(0, g.size - 1), min_size=1), label=g.name))
        for g in deps.groups
    }
    graph = cut_graph(captured, deps, keep)
    assert verify(captured, deps, keep, graph) < 1e-9
    trained_step(graph, captured.example_inputs)


@pytest.mark.parametrize("name", CASES)
def test_what_is_handed_out_trains(name: str) -> None:
    """The user's class where it follows, else the graph: verified, and a training step runs."""
    _, captured, deps = _analysed(name)
    keep = {g.name: list(range(0, g.size, 2)) for g in deps.groups}
    pruned, _ = prune_model(captured, deps, keep, tolerance=1e-9)
    trained_step(pruned, captured.example_inputs)


def test_twelve_channels_with_an_alignment_of_eight() -> None:
    """The aligned width below, and the full one, which is said to be exempt; never none, never 16."""
    widths = _widths(nn.Sequential(stem(12), nn.ReLU(), head(12)), 8)
    assert widths["0"].widths == (8, 12)
    assert widths["0"].exempt is not None and "12" in widths["0"].exempt


def test_grouped_convolution_with_alignment() -> None:
    """Whole units across all groups: the channels of a width are a multiple of both."""
    net = nn.Sequential(stem(32), nn.Conv2d(32, 64, 3, groups=4), nn.ReLU(), head(64))
    for name, channels in (("0", 32), ("1", 64)):
        widths = _widths(net, 8)[name].widths
        assert widths[-1] * 4 == channels
        assert all(width * 4 % 8 == 0 for width in widths)


def _widths(net: nn.Module, multiple: int) -> dict[str, GroupWidths]:
    target = load_target("host")
    aligned = {"float32": target.alignment["float32"].model_copy(update={"conv2d": multiple})}
    captured = capture(net.eval(), (torch.randn(2, 3, 8, 8),))
    deps = analyse(captured)
    return group_widths(deps, captured.graph.graph, target.model_copy(update={"alignment": aligned}))
