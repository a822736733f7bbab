"""Groups that turn out to be out of reach after the analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hwprune.dependency.groups import Dependencies, Refusal
from hwprune.extent import Extent


def freeze(deps: Dependencies, reasons: Mapping[str, str]) -> Dependencies:
    """The same analysis without some groups: their channels stay.

    Parameters
    ----------
    deps
        The analysis.
    reasons
        Group name to the reason that the ledger gives.
    """
    if not reasons:
        return deps
    gone = {name: deps.group(name) for name in reasons}
    widths = {name: group.size for name, group in gone.items()}

    def whole(extent: Extent) -> Extent:
        if not any(name in gone for name, _ in extent.terms):
            return extent
        fixed = sum(k * widths[name] for name, k in extent.terms if name in gone)
        return Extent(extent.fixed + fixed, tuple((n, k) for n, k in extent.terms if n not in gone))

    lines = tuple(
        Refusal(name, group.size * group.channels_per_unit, reasons[name]) for name, group in gone.items()
    )
    return replace(
        deps,
        groups=tuple(g for g in deps.groups if g.name not in gone),
        extents={name: tuple(whole(e) for e in extents) for name, extents in deps.extents.items()},
        ledger=(*deps.ledger, *lines),
    )
