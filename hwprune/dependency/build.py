"""From the tracker's layouts to members and extents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from hwprune.dependency.groups import Member, Reading, Run
from hwprune.dependency.layout import Axis, Layout, resolve
from hwprune.dependency.tracker import Tracker, shape
from hwprune.extent import Extent


@dataclass
class Leaf:
    """A set of units that is left when the walk is over, with the layers that produce it.

    ``channels`` counts the positions of the units in the first producer.
    """

    axis: Axis
    channels: int
    layers: list[str] = field(default_factory=list[str])
    nodes: list[fx.Node] = field(default_factory=list[fx.Node])
    name: str = ""


def runs_of(layout: Layout) -> dict[Axis, list[Run]]:
    """Runs of every axis on a dimension."""
    out: dict[Axis, list[Run]] = {}
    start = 0
    for axis, inner in resolve(layout):
        out.setdefault(axis, []).append(Run(start=start, unit=0, count=axis.size, inner=inner))
        start += axis.size * inner
    return out


def build_members(tracker: Tracker, names: Mapping[Axis, str]) -> dict[str, list[Member]]:
    """Dimensions of parameters and buffers by group name, in graph order."""
    members: dict[str, list[Member]] = {name: [] for name in names.values()}
    for node, dims in tracker.dims.items():
        if node.op != "get_attr":
            continue
        for dim, layout in enumerate(dims):
            for axis, runs in runs_of(layout or ()).items():
                if axis not in names:
                    continue
                roles = tracker.roles.get((node, dim), {"channelwise": next(iter(node.users))})
                for role, user in roles.items():
                    members[names[axis]].append(Member(str(node.target), dim, role, user.name, tuple(runs)))
    return members


def build_readings(tracker: Tracker, names: Mapping[Axis, str]) -> dict[str, list[Reading]]:
    """Readings without a weight by group name, in graph order."""
    readings: dict[str, list[Reading]] = {name: [] for name in names.values()}
    for node, operand, dim, kind in tracker.readings:
        for axis, runs in runs_of(tracker.dims[operand][dim] or ()).items():
            if axis in names:
                readings[names[axis]].append(Reading(node.name, operand.name, dim, kind, tuple(runs)))
    return readings


def build_extents(
    graph: fx.Graph, tracker: Tracker, names: Mapping[Axis, str]
) -> dict[str, tuple[Extent, ...]]:
    """Size of every dimension of every tensor node as a function of group widths."""
    extents: dict[str, tuple[Extent, ...]] = {}
    for node in graph.nodes:
        sizes = shape(node)
        if sizes is None or node.op == "output":
            continue
        dims = tracker.dims.get(node, [None] * len(sizes))
        extents[node.name] = tuple(
            Extent(size) if layout is None else _extent(layout, names)
            for size, layout in zip(sizes, dims, strict=True)
        )
    return extents


def build_pieces(tracker: Tracker, names: Mapping[Axis, str]) -> dict[str, tuple[Extent, ...]]:
    """Sizes of parts that are written into arguments, as functions of group widths."""
    return {n.name: tuple(_extent(part, names) for part in parts) for n, parts in tracker.pieces.items()}


def _extent(layout: Layout, names: Mapping[Axis, str]) -> Extent:
    fixed = 0
    terms: dict[str, int] = {}
    for axis, inner in resolve(layout):
        if axis in names:
            terms[names[axis]] = terms.get(names[axis], 0) + inner
        else:
            fixed += axis.size * inner
    return Extent(fixed, tuple(terms.items()))
