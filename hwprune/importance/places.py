"""Where in a graph a unit can be scaled: at its readers, behind its norms, or in its own weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import ChannelGroup, Dependencies, Member, Reading, Tap
from hwprune.errors import CriterionError
from hwprune.importance.units import unit_of_position

#: Where the removal of a unit is imagined.
At = Literal["consumers", "gate", "producers"]

_CONVOLUTIONS = ("aten.conv1d.", "aten.conv2d.", "aten.conv3d.")
_TRANSPOSED = ("aten.conv_transpose1d.", "aten.conv_transpose2d.", "aten.conv_transpose3d.")


@dataclass(frozen=True)
class Place:
    """One dimension of one tensor on which units of a group lie.

    Attributes
    ----------
    node
        Name of the node whose value is scaled.
    dim
        Dimension of its value.
    group
        Name of the group.
    units
        For each position of the dimension the unit there, -1 where there is none.
    readers
        Names of the nodes that see the scaled value; None for all of them.
    kind
        ``"value"``; ``"parameter"`` for a tensor that is the same for all examples; ``"statistics"``
        where the units count less in the mean and variance that the one reader takes.
    """

    node: str
    dim: int
    group: str
    units: torch.Tensor
    readers: tuple[str, ...] | None = None
    kind: Literal["value", "parameter", "statistics"] = "value"


def places_of(captured: Captured, deps: Dependencies, at: At) -> tuple[Place, ...]:
    """Where the units of all groups are scaled.

    ``"consumers"``: wherever a unit is read, which is what surgery takes away: in front of
    convolutions and linear layers, in contractions of activations, and in the statistics of norms
    across channels. A factor of 0 gives exactly the pruned network. ``"gate"``: the last tap of
    the group, where all its producers are normalised and summed; also what groups without a
    reader get. ``"producers"``: the filters and biases that make the unit, which is a direction in
    the space of parameters.

    Raises
    ------
    CriterionError
        A group has no such place.
    """
    nodes = _Nodes(captured)
    found: list[Place] = []
    for group in deps.groups:
        if at == "producers":
            found += _made(group, nodes)
        else:
            found += (_read(group, nodes) if at == "consumers" else []) or [_tapped(group, nodes)]
    return tuple(found)


def gate_tap(group: ChannelGroup) -> Tap:
    """The tap that carries a group's gate: the last one.

    Raises
    ------
    CriterionError
        The group has none.
    """
    if not group.taps:
        raise CriterionError(
            f"group {group.name} has no tensor that carries all of its channels, so it cannot be gated",
            hint=f"exclude {group.name}, or use a criterion of weights such as l2",
        )
    return group.taps[-1]


class _Nodes:
    """The nodes of a graph by name, and those that fetch a parameter."""

    def __init__(self, captured: Captured) -> None:
        self.named: dict[str, fx.Node] = {node.name: node for node in captured.graph.graph.nodes}
        self.sources: dict[str, list[fx.Node]] = {}
        for node in captured.graph.graph.nodes:
            if node.op == "get_attr":
                self.sources.setdefault(str(node.target), []).append(node)


def _tapped(group: ChannelGroup, nodes: _Nodes) -> Place:
    tap = gate_tap(group)
    size = int(nodes.named[tap.node].meta["val"].shape[tap.dim])
    return Place(tap.node, tap.dim, group.name, unit_of_position(tap.runs, size))


def _read(group: ChannelGroup, nodes: _Nodes) -> list[Place]:
    consumers = _distinct(m for m in group.members if m.role == "consumer")
    found = [place for member in consumers for place in _consumer(group, member, nodes)]
    together: dict[tuple[str, str, int, str], list[Reading]] = {}
    for r in group.readings:
        if r.kind in ("sum", "statistics"):
            together.setdefault((r.node, r.operand, r.dim, r.kind), []).append(r)
    found += [_reading(group, readings, nodes) for readings in together.values()]
    # Statistics alone do not remove a unit from anything.
    return found if any(place.kind != "statistics" for place in found) else []


def _consumer(group: ChannelGroup, member: Member, nodes: _Nodes) -> list[Place]:
    """In front of the layers where their input can be told, otherwise in their weight.

    A weight that is used twice is read twice, though its member names one of the layers.
    """
    found: list[Place] = []
    for weight in nodes.sources[member.param]:
        units = unit_of_position(member.runs, int(weight.meta["val"].shape[member.dim]))
        for reader in weight.users:
            place = _in_front(group, reader, weight, member.dim, units)
            if place is None:
                whole = Place(weight.name, member.dim, group.name, units, None, "parameter")
                return [*(p for p in found if p.kind == "parameter"), whole]
            found.append(place)
    return found


def _in_front(
    group: ChannelGroup, reader: fx.Node, weight: fx.Node, dim: int, units: torch.Tensor
) -> Place | None:
    x = reader.args[0] if reader.args else None
    if not isinstance(x, fx.Node) or len(reader.args) < 2 or reader.args[1] is not weight:
        return None
    target, rank = str(reader.target), x.meta["val"].ndim
    channel = rank - weight.meta["val"].ndim + 1
    if target.startswith("aten.linear.") and dim == 1:
        return Place(x.name, rank - 1, group.name, units, (reader.name,))
    if target.startswith(_CONVOLUTIONS) and dim == 1:
        groups = reader.args[6] if len(reader.args) > 6 else reader.kwargs.get("groups", 1)
        assert isinstance(groups, int)
        return Place(x.name, channel, group.name, units.repeat(groups), (reader.name,))
    if target.startswith(_TRANSPOSED) and dim == 0:
        return Place(x.name, channel, group.name, units, (reader.name,))
    return None


def _reading(group: ChannelGroup, readings: Sequence[Reading], nodes: _Nodes) -> Place:
    first = readings[0]
    size = int(nodes.named[first.operand].meta["val"].shape[first.dim])
    units = unit_of_position([run for r in readings for run in r.runs], size)
    kind = "statistics" if first.kind == "statistics" else "value"
    return Place(first.operand, first.dim, group.name, units, (first.node,), kind)


def _made(group: ChannelGroup, nodes: _Nodes) -> list[Place]:
    layers = {m.node for m in group.members if m.role == "producer"}
    if not layers:
        raise CriterionError(
            f"group {group.name} has no layer that makes its channels",
            hint=f"exclude {group.name}, or take another form",
        )
    made = [m for m in group.members if m.role == "producer" or _is_bias(m, layers)]
    return [
        Place(
            source.name,
            m.dim,
            group.name,
            unit_of_position(m.runs, int(source.meta["val"].shape[m.dim])),
            None,
            "parameter",
        )
        for m in _distinct(made)
        for source in nodes.sources[m.param]
    ]


def _is_bias(member: Member, layers: set[str]) -> bool:
    return member.role == "channelwise" and member.node in layers


def _distinct(members: Iterable[Member]) -> list[Member]:
    return list({(m.param, m.dim): m for m in members}.values())
