"""What the dependency analysis hands on: groups of channels that can only be cut together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hwprune.extent import Extent

#: Kind of the :class:`Reading` of the model's outputs.
OUTPUT = "output"


@dataclass(frozen=True)
class Run:
    """Units ``unit .. unit+count-1`` sit at ``start + i*inner .. start + (i+1)*inner - 1``.

    ``inner`` is the number of consecutive positions that belong to one unit (H*W behind a
    flatten). A unit may occur in several runs (a grouped convolution ties one position per group;
    a tensor concatenated with itself).
    """

    start: int
    unit: int
    count: int
    inner: int = 1


@dataclass(frozen=True)
class Member:
    """One dimension of one parameter or buffer that is cut with the group.

    ``role`` is ``"producer"`` (output channels of a convolution or linear layer),
    ``"consumer"`` (their input channels), or ``"channelwise"`` (BatchNorm vectors, depthwise
    filters, biases and other per-channel tensors).
    """

    param: str
    dim: int
    role: str
    node: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Tap:
    """A tensor of the graph (node name, dimension) that carries every unit of the group.

    Gates and activation hooks go to ``taps[-1]``: the last point at which all producers of the
    group have been normalised and summed.
    """

    node: str
    dim: int
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Reading:
    """A node that reads every unit of the group without a weight of its own.

    ``kind`` says what a removed unit is in the masked original: with ``"sum"`` (matrix products of
    activations, attention scores, computed weights) it is a zero on dimension ``dim`` of
    ``operand``; with ``"statistics"`` (LayerNorm, RMSNorm, GroupNorm with one group) it is left
    out of the mean and the variance that ``node`` takes along that dimension; with ``"output"``
    (an output of the model, where those may be pruned) it is not returned.
    """

    node: str
    operand: str
    dim: int
    kind: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that must be removed together, numbered ``0 .. size-1`` as *units*.

    ``channels_per_unit`` is 1 except where one unit is several channels of a layer: the same
    position of every group of a grouped convolution, a group of a GroupNorm, an attention head.
    """

    name: str
    size: int
    channels_per_unit: int
    members: tuple[Member, ...]
    taps: tuple[Tap, ...]
    readings: tuple[Reading, ...] = ()

    @property
    def statistics(self) -> tuple[str, ...]:
        """Nodes whose mean and variance change with the group's width (LayerNorm and its kin)."""
        return tuple(dict.fromkeys(r.node for r in self.readings if r.kind == "statistics"))


@dataclass(frozen=True)
class Refusal:
    """A ledger line: channels that stay, and why."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Dependencies:
    """The result of the analysis.

    ``groups`` can be pruned; ``extents`` gives, for every tensor of the graph (by node name,
    parameters and buffers included under their ``get_attr`` node's name), the size of each
    dimension as a function of the widths of ``groups``; ``ledger`` lists what cannot be pruned.
    ``pieces`` gives, for nodes that take a dimension apart, the sizes of its parts that are written
    into their arguments (every piece of a split; what lies before a slice, and the slice).
    ``inside_heads`` and ``prune_outputs`` are what the analysis was asked for: other groups come out
    without them.
    """

    groups: tuple[ChannelGroup, ...]
    extents: Mapping[str, tuple[Extent, ...]]
    ledger: tuple[Refusal, ...] = field(default=())
    pieces: Mapping[str, tuple[Extent, ...]] = field(default_factory=dict[str, tuple[Extent, ...]])

    inside_heads: tuple[str, ...] = ()
    prune_outputs: bool = False

    def group(self, name: str) -> ChannelGroup:
        return next(g for g in self.groups if g.name == name)

    @property
    def dense_widths(self) -> dict[str, int]:
        return {g.name: g.size for g in self.groups}
