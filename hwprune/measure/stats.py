"""What repeated timings say: the median and how far it can be relied on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
#: Beyond this many scaled median absolute deviations a sample counts as an outlier.
OUTLIER_DEVIATIONS = 3.5
#: Scales the median absolute deviation to the standard deviation of a normal distribution ...
_NORMAL_SCALE = 1.4826
#: ... and the mean absolute deviation, for series of which more than half are equal.
_NORMAL_SCALE_MEAN = 1.2533
#: Quantile of the normal distribution that leaves 2.5 % above it.
_NORMAL_95 = 1.96
_BLOCK_ITEMS = 2_000_000


@dataclass(frozen=True)
class Summary:
    """Statistics of one series of samples, in the unit of the samples.

    ``outliers`` are positions in the series. They are never removed: on a shared machine they are
    part of the truth.
    """

    median: float
    ci_low: float
    ci_high: float
    minimum: float
    mean: float
    outliers: tuple[int, ...]
    n: int

    @property
    def relative_width(self) -> float:
        """Width of the confidence interval as a fraction of the median."""
        return (self.ci_high - self.ci_low) / self.median if self.median > 0 else 0.0


def bootstrap_medians(
    samples: np.ndarray, seed: int, resamples: int = RESAMPLES, passes: Sequence[int] = ()
) -> np.ndarray:
    """Medians of ``resamples`` series drawn with replacement (Efron's bootstrap).

    Parameters
    ----------
    samples
        One-dimensional, of length n.
    seed
        The same seed gives the same draws.
    passes
        Lengths of the parts that the samples were taken in, at different times. Then parts are drawn
        first, and samples from these: what changes from one time to another is in the result.

    Returns
    -------
    np.ndarray
        Shape (resamples,).
    """
    generator = np.random.default_rng(seed)
    medians = np.empty(resamples)
    rows = max(1, _BLOCK_ITEMS // len(samples))  # long series must not fill the memory
    lengths = np.asarray(passes if len(passes) > 1 else [len(samples)])
    starts, draws = np.cumsum(lengths) - lengths, -(-len(samples) // len(lengths))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        part = np.repeat(generator.integers(0, len(lengths), size=(count, len(lengths))), draws, axis=1)
        drawn = starts[part] + generator.integers(0, lengths[part])
        medians[start : start + count] = np.median(samples[drawn], axis=1)
    return medians


def percentile_interval(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    """The central part of a bootstrap distribution."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def outliers(samples: Sequence[float] | np.ndarray) -> tuple[int, ...]:
    """Positions of the samples that are too far from the median, by the median absolute deviation.

    Where more than half of the samples are equal (a coarse clock), the mean absolute deviation
    stands in for the median one, which is zero then. After Iglewicz and Hoaglin, "How to detect and
    handle outliers" (1993).
    """
    values = np.asarray(samples, dtype=np.float64)
    deviations = np.abs(values - np.median(values))
    scale = _NORMAL_SCALE * float(np.median(deviations)) or _NORMAL_SCALE_MEAN * float(deviations.mean())
    return tuple(int(i) for i in np.flatnonzero(deviations > OUTLIER_DEVIATIONS * scale))


def quick_relative_width(samples: Sequence[float]) -> float:
    """About :attr:`Summary.relative_width`, at the cost of a sort.

    The bootstrap distribution of a median is binomial over the order statistics, and that is
    normal in the limit: the interval ends at the ranks n/2 -+ 0.98 sqrt(n).
    """
    values = np.sort(np.asarray(samples, dtype=np.float64))
    n = len(values)
    reach = _NORMAL_95 * np.sqrt(n) / 2
    low, high = max(0, int(n / 2 - reach)), min(n - 1, int(n / 2 + reach))
    median = float(np.median(values))
    return float(values[high] - values[low]) / median if median > 0 else 0.0


def summarise(
    samples: Sequence[float], confidence: float = 0.95, seed: int = 0, passes: Sequence[int] = ()
) -> Summary:
    """Median with a bootstrap percentile interval, minimum, mean and outliers.

    Parameters
    ----------
    samples
        At least one; their unit is the unit of the result.
    confidence
        Between 0 and 1.
    seed
        Of the bootstrap.
    passes
        Lengths of the parts that the samples were taken in, if there was more than one.

    Raises
    ------
    ValueError
        No samples, or one that is not finite: our own bug, not the user's.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("summarise needs at least one sample, all finite")
    median = float(np.median(values))
    low, high = percentile_interval(bootstrap_medians(values, seed, passes=passes), confidence)
    return Summary(
        median=median,
        ci_low=min(low, median),  # parts of unequal lengths may lean to one side
        ci_high=max(high, median),
        minimum=float(values.min()),
        mean=float(values.mean()),
        outliers=outliers(values),
        n=int(values.size),
    )


def ratio_interval(
    samples: Sequence[float],
    reference: Sequence[float],
    confidence: float = 0.95,
    seed: int = 0,
    *,
    passes: Sequence[int] = (),
    reference_passes: Sequence[int] = (),
) -> tuple[float, float, float]:
    """Ratio of two medians and its bootstrap interval: (ratio, low, high).

    Both series are drawn independently; ``passes`` as for :func:`bootstrap_medians`.
    """
    above = np.asarray(samples, dtype=np.float64)
    below = np.asarray(reference, dtype=np.float64)
    draws = bootstrap_medians(above, seed, passes=passes)
    draws = draws / bootstrap_medians(below, seed + 1, passes=reference_passes)
    low, high = percentile_interval(draws, confidence)
    return float(np.median(above) / np.median(below)), low, high
