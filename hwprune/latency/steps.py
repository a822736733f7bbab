"""What one unit of each group costs, read off a latency table."""

from __future__ import annotations

from collections.abc import Mapping

from hwprune.errors import UsageError
from hwprune.latency.predict import LatencyModel
from hwprune.latency.table import LatencyTable


def step_latency(
    model: LatencyModel, table: LatencyTable, widths: Mapping[str, int] | None = None
) -> dict[str, float]:
    """Share of the latency that goes with one unit of a group, by the next step down.

    Latency is a staircase over widths, so a single unit often saves nothing. What counts is the drop
    from the present width to the next smaller one on offer, spread over the units in between.

    Parameters
    ----------
    model
        Kernels of the network and the widths on offer.
    table
        Prices of kernels; between measured widths they are interpolated.
    widths
        Present widths, in units; the dense ones by default. All must be on offer.

    Returns
    -------
    dict
        Per group the share of the present latency (kernels only) that each unit costs; at least 0,
        and 0 at the smallest width on offer. This is what ``taylor2017`` takes as ``latency``.

    Raises
    ------
    UsageError
        A width is not on offer.
    KernelMissError
        The table has no kernel to price one from.
    """
    now = dict(model.dense) | dict(widths or {})
    whole = model.predict(now, table).ns
    found: dict[str, float] = {}
    for group, offered in model.domains.items():
        if now[group] not in offered:
            raise UsageError(
                f"width {now[group]} of group {group} is not on offer",
                hint=f"there are {', '.join(map(str, offered))}",
            )
        smaller = [width for width in offered if width < now[group]]
        if not smaller:
            found[group] = 0.0
            continue
        less = model.predict({**now, group: max(smaller)}, table).ns
        found[group] = max(0.0, whole - less) / whole / (now[group] - max(smaller))
    return found
