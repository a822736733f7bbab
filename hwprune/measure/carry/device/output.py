"""Does a kernel return on the device what it returned where it was built?"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

#: Largest difference, relative to the largest expected value. The machine code is the same; what may
#: differ is the order of sums, by the number of threads.
OUTPUT_TOLERANCE = 1e-3


def nonfinite(values: array[float]) -> int:
    """How many values are NaN or infinite."""
    if math.isfinite(sum(values)):  # far quicker than looking at each, and nearly always so
        return 0
    return sum(not math.isfinite(value) for value in values)


def wrong_value(values: Sequence[float], expected: Sequence[Sequence[float]] | None) -> str | None:
    """What is wrong with an output, if anything is.

    Parameters
    ----------
    values
        The output.
    expected
        Pairs of place and value, or None where nothing is known.
    """
    if not expected:
        return None
    scale = max(abs(value) for _, value in expected) or 1.0
    for place, value in expected:
        at = int(place)
        if at >= len(values):
            return f"returned {len(values)} values, more than {at} were expected"
        if not abs(values[at] - value) <= OUTPUT_TOLERANCE * scale:
            return f"returned wrong values: {values[at]:.6g} instead of {value:.6g} at {at}"
    return None
