"""What was asked of every group, and what the pruned model has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import shapes_of
from hwprune.dependency.groups import ChannelGroup, Dependencies
from hwprune.surgery.apply import graph_tensors
from hwprune.surgery.selection import Cuts, positions, select

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Outcome:
    """Channels of one group, or of a layer that could not be pruned.

    Attributes
    ----------
    name
        Group, or layer of a ledger line.
    channels
        Channels of the original.
    requested
        Channels that the plan keeps; all of them where none could go.
    achieved
        Channels of the pruned model, counted in its weights; None where it has no weight of the
        group to count in.
    reason
        Why no channel could go, None for groups.
    """

    name: str
    channels: int
    requested: int
    achieved: int | None
    reason: str | None = None


def outcomes(
    captured: Captured, deps: Dependencies, keep: Mapping[str, Sequence[int]], pruned: nn.Module
) -> tuple[Outcome, ...]:
    """One line per group and per line of the ledger.

    Parameters
    ----------
    captured, deps, keep
        What the model was cut from, and the units that were to be kept.
    pruned
        The cut model.
    """
    before = {name: tuple(value.shape) for name, value in graph_tensors(captured.graph).items()}
    after = shapes_of(pruned)
    cuts = select(deps, keep, before)
    rows: list[Outcome] = []
    for group in deps.groups:
        dense = group.size * group.channels_per_unit
        wanted = len(keep.get(group.name, range(group.size))) * group.channels_per_unit
        rows.append(Outcome(group.name, dense, wanted, _count(group, cuts, before, after)))
    rows += [Outcome(r.name, r.channels, r.channels, r.channels, r.reason) for r in deps.ledger]
    return tuple(rows)


def _count(group: ChannelGroup, cuts: Cuts, before: Shapes, after: Shapes) -> int | None:
    """Channels that are left, counted in a weight that makes or carries them."""
    for member in sorted(group.members, key=lambda m: m.role != "producer"):
        if member.param not in before or member.param not in after:
            continue
        own = set(positions(member.runs, range(group.size)))
        kept = cuts.get(member.param, {}).get(member.dim)
        everything = range(before[member.param][member.dim]) if kept is None else kept.tolist()
        others = sum(position not in own for position in everything)
        left = after[member.param][member.dim] - others
        return left * group.size * group.channels_per_unit // len(own)
    return None
