"""Where gates and activation hooks go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from hwprune.dependency.build import runs_of
from hwprune.dependency.groups import Run, Tap
from hwprune.dependency.layout import Axis
from hwprune.dependency.tracker import Tracker

_NORMS = frozenset({"aten.batch_norm.default", "aten.instance_norm.default", "aten.group_norm.default"})


def build_taps(
    graph: fx.Graph, tracker: Tracker, producers: Mapping[Axis, Sequence[fx.Node]]
) -> dict[Axis, list[Tap]]:
    """Producer-side tensors of every group, in topological order.

    A tensor is on the producer side of a group when it is

    1. the output of a layer that makes channels of the group (depthwise convolutions included),
    2. the output of a BatchNorm, InstanceNorm or GroupNorm that is the only reader of such a
       tensor, or
    3. a sum, product or other combination, position by position or head by head, of two or more
       tensors that carry the group (a residual sum; features times their gate; attention scores
       times the values).

    The last one is the latest such tensor. With one producer it is the value after BatchNorm;
    with a residual sum it is the sum. Where a group is summed several times (a stage of residual
    blocks), every sum is a tap and the last one is that of the last block: consumers inside
    the stage read earlier sums.
    """
    makes: dict[fx.Node, set[Axis]] = {}
    for axis, nodes in producers.items():
        for node in nodes:
            makes.setdefault(node, set()).add(axis)
    taps: dict[Axis, list[Tap]] = {axis: [] for axis in producers}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node in makes:
            chosen = makes[node]
        elif str(node.target) in _NORMS:
            source = node.args[0]
            single = isinstance(source, fx.Node) and len(source.users) == 1
            chosen = makes.get(source, set[Axis]()) if single and isinstance(source, fx.Node) else set[Axis]()
        elif node in tracker.merges:
            chosen = _carried_twice(tracker, node, taps)
        else:
            continue
        if chosen:
            for axis, tap in _carried(tracker, node).items():
                if axis in chosen:
                    taps[axis].append(tap)
    return taps


def _carried(tracker: Tracker, node: fx.Node) -> dict[Axis, Tap]:
    """Groups that a tensor carries, each at its first dimension."""
    out: dict[Axis, Tap] = {}
    for dim, layout in enumerate(tracker.dims.get(node, ())):
        found: dict[Axis, list[Run]] = runs_of(layout) if layout else {}
        for axis, runs in found.items():
            out.setdefault(axis, Tap(node.name, dim, tuple(runs)))
    return out


def _carried_twice(tracker: Tracker, node: fx.Node, groups: Mapping[Axis, object]) -> set[Axis]:
    counts: dict[Axis, int] = {}
    for operand in node.all_input_nodes:
        if operand.op != "get_attr":
            for axis in _carried(tracker, operand):
                counts[axis] = counts.get(axis, 0) + 1
    return {axis for axis, count in counts.items() if count > 1 and axis in groups}
