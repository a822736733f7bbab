"""From positions of a tensor dimension to the units of a group, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import ChannelGroup, Member, Run
from hwprune.errors import CriterionError


def unit_of_position(runs: Iterable[Run], length: int) -> torch.Tensor:
    """For each of ``length`` positions the unit that it belongs to, or -1 where it belongs to none."""
    units = torch.full((length,), -1, dtype=torch.long)
    for run in runs:
        numbers = torch.arange(run.unit, run.unit + run.count).repeat_interleave(run.inner)
        units[run.start : run.start + run.count * run.inner] = numbers
    return units


def sum_by_unit(values: torch.Tensor, dim: int, runs: Sequence[Run], size: int) -> torch.Tensor:
    """Sum a tensor over everything that belongs to a unit.

    Parameters
    ----------
    values
        Any shape; ``runs`` describe its dimension ``dim``.
    size
        Number of units.

    Returns
    -------
    torch.Tensor
        ``[size]``, float64.
    """
    per_position = values.double().movedim(dim, 0).flatten(1).sum(1) if values.ndim > 1 else values.double()
    units = unit_of_position(runs, len(per_position)).to(values.device)
    inside = units >= 0
    total = torch.zeros(size, dtype=torch.float64, device=values.device)
    return total.index_add(0, units[inside], per_position[inside])


def parameters_of(captured: Captured) -> dict[str, torch.Tensor]:
    """Parameters and buffers of the captured graph by name, shared ones under each name."""
    graph = captured.graph
    return {
        **dict(graph.named_parameters(remove_duplicate=False)),
        **dict(graph.named_buffers(remove_duplicate=False)),
    }


def members_with_role(group: ChannelGroup, role: str, criterion: str) -> list[Member]:
    """The group's members of one role, each parameter dimension once.

    Raises
    ------
    CriterionError
        There is none.
    """
    found = {(m.param, m.dim): m for m in group.members if m.role == role}
    if not found:
        raise CriterionError(
            f"criterion {criterion} needs a {role} in every group, and group {group.name} has none",
            hint=f"exclude {group.name}, or use another criterion",
        )
    return list(found.values())
