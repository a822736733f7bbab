"""Sets of unit numbers as short text: ``0-3,7,9-12``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hwprune.errors import PlanError

_PART = re.compile(r"(0|[1-9][0-9]*)(?:-(0|[1-9][0-9]*))?")


def format_ranges(units: Iterable[int]) -> str:
    """Write distinct, non-negative unit numbers as ascending ranges."""
    parts: list[tuple[int, int]] = []
    for unit in sorted(set(units)):
        if parts and unit == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], unit)
        else:
            parts.append((unit, unit))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def parse_ranges(text: str, limit: int) -> tuple[int, ...]:
    """Inverse of :func:`format_ranges`; forgiving about spaces, strict about everything else.

    Parameters
    ----------
    limit
        Units must be below it (the size of the group).

    Raises
    ------
    PlanError
        Malformed, not ascending, repeated or too large; the message names the part.
    """
    units: list[int] = []
    for raw in text.split(","):
        part = raw.strip()
        match = _PART.fullmatch(part)
        if match is None:
            raise PlanError(
                f"'{part}' is not a unit or a range of units", hint="write kept units as 0-3,7,9-12"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise PlanError(f"range '{part}' runs backwards", hint=f"write {last}-{first}")
        if last >= limit:
            raise PlanError(f"'{part}' is beyond the last unit, {limit - 1}", hint=f"units are 0-{limit - 1}")
        if units and first <= units[-1]:
            raise PlanError(
                f"'{part}' repeats or precedes unit {units[-1]}", hint="list every kept unit once, ascending"
            )
        units.extend(range(first, last + 1))
    return tuple(units)
