"""Widths that the user allows: shares of layers, by pattern."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import fx

from hwprune.dependency.groups import ChannelGroup, Dependencies
from hwprune.dependency.scope import matches
from hwprune.errors import PlanError, UsageError
from hwprune.planner.widths import GroupWidths, group_widths
from hwprune.solve.domains import aligned_widths
from hwprune.target import Target

#: Keeps 0.1 * 30 from becoming 4 by a rounding error.
_SLACK = 1e-9


@dataclass(frozen=True)
class Bound:
    """Shares of a group that may be kept, and the patterns that said so."""

    low: float = 0.0
    high: float = 1.0
    low_by: str = ""
    high_by: str = ""


def bounds_of(deps: Dependencies, limits: Mapping[str, tuple[float, float]]) -> dict[str, Bound]:
    """What patterns over layers say about groups; a group obeys all patterns that match a layer of it.

    Parameters
    ----------
    deps
        The groups. A pattern matches the names of groups and of layers whose output channels are in one.
    limits
        Pattern to least and greatest share (0..1) of the channels.

    Raises
    ------
    UsageError
        A pattern matches nothing, a range is none, or two patterns leave nothing between them.
    """
    found: dict[str, Bound] = {}
    names = {group.name: _layers(group) for group in deps.groups}
    for pattern, (low, high) in limits.items():
        if not 0.0 <= low <= high <= 1.0:
            raise UsageError(
                f"limit {pattern!r}: {low} to {high} is not a range of shares",
                hint="give two shares from 0 to 1, the smaller one first",
            )
        hit = [name for name, layers in names.items() if any(matches(layer, pattern) for layer in layers)]
        if not hit:
            raise _matches_nothing(pattern, deps, names)
        for name in hit:
            known = found.get(name, Bound())
            if low > known.low:
                known = replace(known, low=low, low_by=pattern)
            if high < known.high:
                known = replace(known, high=high, high_by=pattern)
            if known.low > known.high:
                raise UsageError(
                    f"limits {known.low_by!r} and {known.high_by!r} contradict each other for group "
                    f"{name!r}: at least {known.low:.4g} and at most {known.high:.4g} of its channels",
                    hint="change one of the two",
                )
            found[name] = known
    return found


def offered_widths(
    deps: Dependencies,
    graph: fx.Graph,
    targets: Sequence[Target],
    *,
    minimum: float = 0.1,
    steps: int = 8,
    bounds: Mapping[str, Bound] | None = None,
) -> dict[str, GroupWidths]:
    """Widths of every group that suit all targets and bounds, and the full size, which is always known.

    Raises
    ------
    PlanError
        Bounds leave a group no aligned width; the message names the nearest ones.
    """
    every = [group_widths(deps, graph, target, minimum=minimum, steps=steps) for target in targets]
    found: dict[str, GroupWidths] = {}
    for group in deps.groups:
        multiple = math.lcm(*(widths[group.name].multiple for widths in every))
        bound = (bounds or {}).get(group.name)
        if bound is None and multiple == every[0][group.name].multiple:
            found[group.name] = every[0][group.name]
            continue
        all_, exempt = aligned_widths(
            group.size, group.channels_per_unit, multiple, minimum=minimum, steps=group.size
        )
        inside = all_ if bound is None else tuple(w for w in all_ if _within(w, group.size, bound))
        if bound is not None and not inside:
            raise _none_left(group, all_, multiple, bound)
        picks = np.rint(np.linspace(0, len(inside) - 1, min(steps, len(inside)))).astype(int)
        chosen = {inside[i] for i in picks.tolist()} | {group.size}
        found[group.name] = GroupWidths(group.name, multiple, tuple(sorted(chosen)), exempt)
    return found


def allowed_widths(
    offered: Mapping[str, GroupWidths], deps: Dependencies, bounds: Mapping[str, Bound]
) -> dict[str, tuple[int, ...]]:
    """Of the widths on offer those within bounds, for the groups that have bounds."""
    sizes = {group.name: group.size for group in deps.groups}
    return {
        name: tuple(w for w in offered[name].widths if _within(w, sizes[name], bound))
        for name, bound in bounds.items()
    }


def _within(width: int, size: int, bound: Bound) -> bool:
    return bound.low * size - _SLACK <= width <= bound.high * size + _SLACK


def _layers(group: ChannelGroup) -> tuple[str, ...]:
    owners = (m.param.rpartition(".")[0] for m in group.members if m.role == "producer")
    return tuple(dict.fromkeys((group.name, *owners)))


def _matches_nothing(pattern: str, deps: Dependencies, names: Mapping[str, tuple[str, ...]]) -> UsageError:
    stuck = next((line for line in deps.ledger if matches(line.name, pattern)), None)
    if stuck is not None:
        return UsageError(
            f"limit pattern {pattern!r} matches only layers that cannot be pruned: "
            f"{stuck.name} ({stuck.reason})",
            hint="leave this limit out",
        )
    layers = [layer for found in names.values() for layer in found]
    near = difflib.get_close_matches(pattern, layers, n=3, cutoff=0.4) or layers[:3]
    return UsageError(
        f"limit pattern {pattern!r} matches no layer", hint=f"the nearest layer names are {', '.join(near)}"
    )


def _none_left(group: ChannelGroup, widths: Sequence[int], multiple: int, bound: Bound) -> PlanError:
    by = " and ".join(dict.fromkeys(repr(p) for p in (bound.low_by, bound.high_by) if p))
    below = [w for w in widths if w < bound.low * group.size]
    above = [w for w in widths if w > bound.high * group.size]
    near = " and ".join(f"{w} ({w / group.size:.1%})" for w in (*below[-1:], *above[:1]))
    return PlanError(
        f"limit {by} leaves no aligned width of group {group.name!r} between "
        f"{bound.low * group.size:g} and {bound.high * group.size:g} of its {group.size} units "
        f"(channels in multiples of {multiple}); the nearest are {near}",
        hint="widen the limit to one of those, or lower the minimum",
    )
