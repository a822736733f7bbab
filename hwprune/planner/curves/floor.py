"""Floors against starvation: widths below which a group alone ruins the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwprune.errors import UsageError


def floors(
    curves: Mapping[str, Sequence[float]], domains: Mapping[str, Sequence[int]], most: float
) -> dict[str, int]:
    """The least width of every group at which it costs the loss no more than ``most``, cut alone.

    Sums over groups take losses to be independent of each other; what is lost in a starved layer is
    lost to all that follow, and no width elsewhere makes up for it. A solver that is short of room may
    still starve one, since a sum has no such limit.

    Parameters
    ----------
    curves, domains
        Change of the loss per group and width (never rising with the width), and the widths.
    most
        Change of the loss, in its own units, that one group may cause.

    Returns
    -------
    dict
        Per group a width of its domain; the full one where every other costs more.

    Raises
    ------
    UsageError
        ``most`` is not above 0.
    """
    if not most > 0.0:
        raise UsageError(f"floors for a loss change of {most}", hint="allow a change above 0")
    return {
        group: next(
            (width for width, change in zip(domains[group], curve, strict=True) if change <= most),
            domains[group][-1],
        )
        for group, curve in curves.items()
    }
