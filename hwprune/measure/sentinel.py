"""One kernel that is timed again and again through a sweep: it shows whether the machine drifts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
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
    passes
        How often other kernels are timed for one row.
    """

    def __init__(self, time: Callable[[], Sampled], passes: int = 1) -> None:
        self._time = time
        self._timings = max(SENTINEL_TIMINGS, passes)
        #: What it took when the sweep, or the table, began; replaced when the machine turns out faster.
        self.reference = 0.0
        self.history: list[SentinelTiming] = []

    def settle(self) -> list[Sampled]:
        """Time it a few times for a reference; all timings."""
        timings, self.reference = self._several(self._timings, 0)
        return timings

    def refer_to(self, timings: Sequence[Sampled]) -> None:
        """Take the median of all samples of these timings as the reference."""
        self.reference = statistics.median(s for timing in timings for s in timing.samples_ns)

    def change(self, kernels: int) -> tuple[float, list[Sampled]]:
        """Time it now; relative change since the reference (positive is slower), and the timings.

        A machine that seems to have become faster discredits all that was timed before, so that is
        not believed before it was seen several times.

        Raises
        ------
        MeasureError
            It crashed or hung.
        """
        timings, now = self._several(1, kernels)
        if drift(self.reference, now) < -DRIFT_LIMIT:
            timings, now = self._several(self._timings, kernels)
        return drift(self.reference, now), timings

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

    def _several(self, count: int, kernels: int) -> tuple[list[Sampled], float]:
        """Timings, and the median of all their samples."""
        timings = [self._timed(kernels) for _ in range(count)]
        return timings, statistics.median(s for timing in timings for s in timing.samples_ns)

    def _timed(self, kernels: int) -> Sampled:
        sampled = self._time()
        self.history.append(SentinelTiming(kernels, statistics.median(sampled.samples_ns)))
        return sampled
