"""From positions of a tensor dimension to the units of a group, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

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


def positions_of_units(runs: Iterable[Run], length: int, size: int) -> torch.Tensor:
    """For each unit the positions that belong to it, ascending; -1 where a unit has fewer than others.

    Returns
    -------
    torch.Tensor
        Integers ``[size, most]``.
    """
    units = unit_of_position(runs, length)
    inside = (units >= 0).nonzero().flatten()
    order = inside[torch.argsort(units[inside], stable=True)]
    counts = torch.bincount(units[inside], minlength=size)
    first = torch.cumsum(counts, 0) - counts
    place = torch.arange(len(order)) - first[units[order]]
    out = torch.full((size, int(counts.max()) if size else 0), -1, dtype=torch.long)
    out[units[order], place] = order
    return out


def rows_of_units(values: torch.Tensor, dim: int, runs: Sequence[Run], size: int) -> torch.Tensor:
    """Everything of a tensor that belongs to a unit, as one row per unit.

    Parameters
    ----------
    values
        Any shape; ``runs`` describe its dimension ``dim``.
    size
        Number of units.

    Returns
    -------
    torch.Tensor
        ``[size, columns]`` in the dtype of ``values``; zeros where a unit has fewer positions than others.
    """
    rows = values.movedim(dim, 0).reshape(values.shape[dim], -1)
    index = positions_of_units(runs, len(rows), size).to(values.device)
    found = rows[index.clamp_min(0)]
    return torch.where((index >= 0)[..., None], found, 0).reshape(size, -1)


def served_units(runs: Iterable[Run], size: int) -> torch.Tensor:
    """Which units occur in the runs: booleans ``[size]``."""
    served = torch.zeros(size, dtype=torch.bool)
    for run in runs:
        served[run.unit : run.unit + run.count] = True
    return served
