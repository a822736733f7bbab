"""How fast the latency comes down when a model is pruned in rounds."""

from __future__ import annotations

import math
from typing import Literal

from hwprune.errors import UsageError

Schedule = Literal["linear", "exponential", "agp"]


def shares(schedule: Schedule, final: float, rounds: int) -> tuple[float, ...]:
    """Share of the dense latency after each round.

    Parameters
    ----------
    schedule
        ``"linear"``: equal steps. ``"exponential"``: equal factors. ``"agp"``: cubic, fast at first and
        slowly towards the end (automated gradual pruning, Zhu and Gupta 2017).
    final
        Share after the last round, above 0 and below 1.
    rounds
        Number of rounds.

    Returns
    -------
    tuple
        Falling; the last one is ``final``.

    Raises
    ------
    UsageError
        Unknown schedule, or a number out of its range.
    """
    if not (math.isfinite(final) and 0.0 < final < 1.0):
        raise UsageError(f"the final share of the latency is {final}", hint="use a number between 0 and 1")
    if rounds < 1:
        raise UsageError(f"{rounds} rounds of pruning", hint="use 1 or more")
    done = [number / rounds for number in range(1, rounds)]
    if schedule == "linear":
        before = [1.0 - (1.0 - final) * part for part in done]
    elif schedule == "exponential":
        before = [final**part for part in done]
    elif schedule == "agp":
        before = [final + (1.0 - final) * (1.0 - part) ** 3 for part in done]
    else:
        raise UsageError(f"unknown schedule {schedule!r}", hint="use linear, exponential or agp")
    return (*before, final)
