"""One kernel that is timed again and again through a sweep: it shows whether the machine drifts."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hwprune.measure.guard import drift
from hwprune.measure.sampling import Sampled

#: Timings whose median the sentinel's reference is.
SENTINEL_TIMINGS = 3
#: A sentinel further than this from its reference discredits what was timed in between.
DRIFT_LIMIT = 0.10
#: Most timings that a sweep's record lists one by one.
LISTED = 200


@dataclass(frozen=True)
class SentinelTiming:
    """One timing: after how many kernels of the sweep, and the median in nanoseconds."""

    kernels: int
    ns: float


class Sentinel:
    """The sentinel's history in one sweep.

    Parameters
    ----------
    time
        Times the sentinel kernel once.
    """

    def __init__(self, time: Callable[[], Sampled]) -> None:
        self._time = time
        #: What it took when the sweep, or the table, began; replaced when the machine turns out faster.
        self.reference = 0.0
        self.history: list[SentinelTiming] = []

    def settle(self) -> list[Sampled]:
        """Time it a few times for a reference; the timings, the middle one first."""
        timings = [self._timed(0) for _ in range(SENTINEL_TIMINGS)]
        middle = statistics.median_low(t.ns for t in self.history[-SENTINEL_TIMINGS:])
        self.reference = middle
        return sorted(timings, key=lambda t: abs(statistics.median(t.samples_ns) - middle))

    def change(self, kernels: int) -> tuple[float, Sampled]:
        """Time it now; relative change since the reference (positive is slower), and the timing.

        Raises
        ------
        MeasureError
            It crashed or hung.
        """
        sampled = self._timed(kernels)
        return drift(self.reference, self.history[-1].ns), sampled

    def to_dict(self) -> dict[str, Any]:
        """Reference, extremes and history in nanoseconds, for the sweep's record."""
        times = [t.ns for t in self.history]
        step = -(-len(times) // LISTED) or 1
        return {
            "reference_ns": self.reference,
            "least_ns": min(times, default=None),
            "most_ns": max(times, default=None),
            "timings": [[t.kernels, round(t.ns, 1)] for t in self.history[::step]],
        }

    def _timed(self, kernels: int) -> Sampled:
        sampled = self._time()
        self.history.append(SentinelTiming(kernels, statistics.median(sampled.samples_ns)))
        return sampled
