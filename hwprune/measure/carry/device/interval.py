"""The median's confidence interval without numpy."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

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


def median_interval(samples: list[float]) -> MedianInterval:
    """Distribution-free 95 % interval of the median, from order statistics.

    The number of samples below the true median is binomial, so two of the sorted samples bound it
    (here with the normal approximation and continuity correction; Conover, Practical Nonparametric
    Statistics). It serves to stop sampling; what is written into a table is bootstrapped later.
    """
    values = sorted(samples)
    count = len(values)
    reach = 0.5 * _Z * math.sqrt(count)
    low = max(0, math.floor(0.5 * count - reach))
    high = min(count - 1, math.ceil(0.5 * count + reach))
    return MedianInterval(statistics.median(values), values[low], values[high])


def relative_width(samples: list[float]) -> float:
    """Width of :func:`median_interval` as a fraction of the median."""
    return median_interval(samples).relative_width
