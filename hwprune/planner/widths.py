"""Which widths each group may take on a target."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import fx

from hwprune.dependency.groups import ChannelGroup, Dependencies
from hwprune.solve.domains import aligned_widths
from hwprune.target import Target

aten = torch.ops.aten


@dataclass(frozen=True)
class GroupWidths:
    """Widths (units, ascending) a group may take; ``exempt`` says why its full size is unaligned."""

    group: str
    multiple: int
    widths: tuple[int, ...]
    exempt: str | None


def group_multiple(group: ChannelGroup, graph: fx.Graph, target: Target) -> int:
    """Least common multiple of the alignments of all layers that the group runs through."""
    nodes = {node.name: node for node in graph.nodes}
    kinds = {_layer_kind(nodes[member.node]) for member in group.members if member.node in nodes}
    return math.lcm(*(target.multiple(kind) for kind in kinds if kind is not None))


def _layer_kind(node: fx.Node) -> str | None:
    if node.target in (aten.conv2d.default, aten.conv2d.padding):
        weight, data = node.args[1].meta["val"], node.args[0].meta["val"]  # type: ignore[union-attr]
        return "depthwise" if weight.shape[1] == 1 and data.shape[1] > 1 else "conv2d"
    return "linear" if node.target is aten.linear.default else None


def group_widths(
    deps: Dependencies, graph: fx.Graph, target: Target, *, minimum: float = 0.1, steps: int = 8
) -> dict[str, GroupWidths]:
    """Aligned widths for every group; at most ``steps`` of them, the full size always among them."""
    found: dict[str, GroupWidths] = {}
    for group in deps.groups:
        multiple = group_multiple(group, graph, target)
        widths, exempt = aligned_widths(
            group.size, group.channels_per_unit, multiple, minimum=minimum, steps=steps
        )
        found[group.name] = GroupWidths(group.name, multiple, widths, exempt)
    return found
