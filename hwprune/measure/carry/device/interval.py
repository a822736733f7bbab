"""The median's confidence interval without numpy."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: Draws of the bootstrap over passes; pure Python takes about ten milliseconds for them.
DRAWN_MEDIANS = 200
#: Two-sided 95 % of the normal distribution.
_Z = 1.959964


@dataclass(frozen=True)
class MedianInterval:
    """A median and its interval, in the unit of the samples."""

    median: float
    ci_low: float
    ci_high: float

    @property
    def relative_width(self) -> float:
        """Width of the interval as a fraction of the median."""
        return (self.ci_high - self.ci_low) / self.median if self.median > 0 else 0.0


def median_interval(samples: Sequence[float], passes: Sequence[int] = ()) -> MedianInterval:
    """Distribution-free 95 % interval of the median, from order statistics.

    The number of samples below the true median is binomial, so two of the sorted samples bound it
    (here with the normal approximation and continuity correction; Conover, Practical Nonparametric
    Statistics). It serves to stop sampling; what is written into a table is bootstrapped later.

    Parameters
    ----------
    passes
        Lengths of the parts that the samples were taken in. Where there are several, what changes from
        one to another counts: parts are drawn with replacement, then samples from these.
    """
    values = sorted(samples)
    count = len(values)
    if len(passes) > 1:
        medians = sorted(_drawn_medians(samples, passes))
        tail = len(medians) // 40
        middle = statistics.median(values)
        return MedianInterval(middle, min(medians[tail], middle), max(medians[-1 - tail], middle))
    reach = 0.5 * _Z * math.sqrt(count)
    low = max(0, math.floor(0.5 * count - reach))
    high = min(count - 1, math.ceil(0.5 * count + reach))
    return MedianInterval(statistics.median(values), values[low], values[high])


def _drawn_medians(samples: Sequence[float], passes: Sequence[int]) -> list[float]:
    """The bootstrap of :func:`hwprune.measure.stats.bootstrap_medians`, in few draws."""
    generator = random.Random(0)
    parts: list[Sequence[float]] = []
    for length in passes:
        begin = sum(len(part) for part in parts)
        parts.append(samples[begin : begin + length])
    draws = -(-len(samples) // len(parts))
    medians: list[float] = []
    for _ in range(DRAWN_MEDIANS):
        drawn: list[float] = []
        for part in generator.choices(parts, k=len(parts)):
            drawn += generator.choices(part, k=draws)
        medians.append(statistics.median(drawn))
    return medians


def relative_width(samples: Sequence[float]) -> float:
    """Width of :func:`median_interval` as a fraction of the median."""
    return median_interval(samples).relative_width
