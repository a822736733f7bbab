"""From kept units of groups to kept indices of parameters."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch

from hwprune.dependency.groups import ChannelGroup, Dependencies, Run
from hwprune.errors import PlanError, SurgeryError

Cuts = dict[str, dict[int, torch.Tensor]]
"""Parameter name to dimension to the sorted indices that are kept (int64)."""


def check_keep(deps: Dependencies, keep: Mapping[str, Sequence[int]]) -> None:
    """Raise PlanError unless ``keep`` names known groups and sorted units of them."""
    groups = {group.name: group for group in deps.groups}
    for name, units in keep.items():
        if name not in groups:
            near = difflib.get_close_matches(name, groups, n=3) or list(groups)[:3]
            raise PlanError(
                f"the plan names group {name!r}, which this model does not have",
                hint=f"the nearest groups are {', '.join(near)}; was the plan made for this model?",
            )
        size = groups[name].size
        if not units:
            raise PlanError(f"the plan keeps nothing of group {name!r}", hint="keep at least one unit")
        if any(b <= a for a, b in pairwise(units)) or units[0] < 0 or units[-1] >= size:
            raise PlanError(
                f"the kept units of group {name!r} are not rising numbers from 0 to {size - 1}",
                hint="the plan does not fit this model; make it again",
            )


def widths_of(deps: Dependencies, keep: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Units left of every group; groups that ``keep`` does not name stay whole."""
    return {g.name: len(keep[g.name]) if g.name in keep else g.size for g in deps.groups}


def removed_units(group: ChannelGroup, kept: Sequence[int]) -> list[int]:
    """The units of a group that go."""
    chosen = set(kept)
    return [unit for unit in range(group.size) if unit not in chosen]


def positions(runs: Iterable[Run], units: Iterable[int]) -> list[int]:
    """Indices of the given units on a dimension, unsorted."""
    chosen = list(units)
    return [
        run.start + (unit - run.unit) * run.inner + offset
        for run in runs
        for unit in chosen
        if run.unit <= unit < run.unit + run.count
        for offset in range(run.inner)
    ]


def select(
    deps: Dependencies, keep: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]]
) -> Cuts:
    """Kept indices of every dimension of every parameter that shrinks.

    Parameters
    ----------
    deps
        The analysis.
    keep
        Group to its kept units, sorted; groups that are not named stay whole.
    shapes
        Shape of every parameter and buffer that a member names.

    Raises
    ------
    PlanError
        ``keep`` does not fit the groups.
    """
    check_keep(deps, keep)
    gone: dict[tuple[str, int], list[int]] = {}
    for name, kept in keep.items():
        group = deps.group(name)
        removed = removed_units(group, kept)
        if removed:
            for member in group.members:
                gone.setdefault((member.param, member.dim), []).extend(positions(member.runs, removed))
    cuts: Cuts = {}
    for (param, dim), removed in gone.items():
        if param not in shapes:
            raise SurgeryError(
                f"the model has no parameter or buffer {param!r}", hint="was the model changed?"
            )
        mask = torch.ones(shapes[param][dim], dtype=torch.bool)
        mask[removed] = False
        cuts.setdefault(param, {})[dim] = mask.nonzero().flatten()
    return cuts


def cut_tensor(tensor: torch.Tensor, dims: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """A detached copy of the kept part of a tensor."""
    out = tensor.detach()
    for dim, kept in dims.items():
        out = out.index_select(dim, kept.to(out.device))
    return out.clone(memory_format=torch.contiguous_format)
