"""Filters as they are once channels before them are gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import ChannelGroup, Dependencies
from hwprune.errors import UsageError
from hwprune.importance.units import unit_of_position


def from_input_to_output(captured: Captured, groups: Iterable[ChannelGroup]) -> list[ChannelGroup]:
    """Groups in the order in which their first producers run; groups without one come first."""
    place = {node.name: number for number, node in enumerate(captured.graph.graph.nodes)}

    def first(group: ChannelGroup) -> int:
        return min((place[m.node] for m in group.members if m.role == "producer"), default=-1)

    return sorted(groups, key=first)


def kept_counts(keep: float | Mapping[str, int], deps: Dependencies, criterion: str) -> dict[str, int]:
    """Units to keep of every group, from a share of all or from counts of some.

    Raises
    ------
    UsageError
        The share is not in ``(0, 1]``, a group is unknown, or a count does not fit it.
    """
    sizes = deps.dense_widths
    if not isinstance(keep, Mapping):
        if not 0.0 < keep <= 1.0:
            raise UsageError(f"{criterion} is to keep a share of {keep}", hint="keep is above 0, at most 1")
        return {name: max(1, round(keep * size)) for name, size in sizes.items()}
    unknown = sorted(keep.keys() - sizes.keys())
    if unknown:
        raise UsageError(
            f"{criterion} is to keep units of {unknown[0]!r}, which is no group of this model",
            hint=f"there are {', '.join(sizes) or 'no groups'}",
        )
    for name, count in keep.items():
        if not 1 <= count <= sizes[name]:
            raise UsageError(
                f"{criterion} is to keep {count} units of group {name}, which has {sizes[name]}",
                hint=f"keep from 1 to {sizes[name]}",
            )
    return {**sizes, **keep}


def without_inputs(
    group: ChannelGroup, removed: torch.Tensor, parameters: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights that read a group, with zeros where they read removed units.

    Parameters
    ----------
    removed
        Numbers of units.
    parameters
        Parameters by name; not changed.
    """
    changed: dict[str, torch.Tensor] = {}
    if not len(removed):
        return changed
    for member in group.members:
        if member.role != "consumer":
            continue
        weight = changed.get(member.param, parameters[member.param]).detach()
        units = unit_of_position(member.runs, weight.shape[member.dim])
        gone = torch.isin(units, removed.cpu()).nonzero().flatten().to(weight.device)
        changed[member.param] = weight.index_fill(member.dim, gone, 0)
    return changed
