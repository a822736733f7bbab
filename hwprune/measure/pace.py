"""Times at one pace: what kernels take while the core is as fast as when the table was begun.

Clouds and laptops change the speed of their cores by a tenth and more, many times a second. Every
sample has the pace of the core beside it (:meth:`hwprune.compile.KernelRunner.pace`); the ratio of the
two is steady. It becomes nanoseconds again by the sentinel kernel, whose time in the table is the
same for all sweeps.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from hwprune.measure.sampling import Sampled


class Pace:
    """The pace to which all timings of a table are brought; none until :meth:`learn`."""

    def __init__(self) -> None:
        self.reference_ns: float | None = None

    def learn(self, timings: Sequence[Sampled], known_ns: float | None = None) -> None:
        """Find the reference from timings of the sentinel.

        Parameters
        ----------
        timings
            As they were taken.
        known_ns
            The sentinel's time in the table, if it has one: the reference is the pace at which it
            takes just that. Otherwise it is the usual pace of these timings.
        """
        paces = [pace for timing in timings for pace in timing.pace_ns]
        if not paces or not all(len(t.pace_ns) == len(t.samples_ns) for t in timings):
            return
        if known_ns is None:
            self.reference_ns = statistics.median(paces)
            return
        ratios = (s / p for t in timings for s, p in zip(t.samples_ns, t.pace_ns, strict=True))
        self.reference_ns = known_ns / statistics.median(ratios)

    def steady(self, sampled: Sampled) -> Sampled:
        """A timing at the reference pace; as it is where there is no pace beside it."""
        if self.reference_ns is None or len(sampled.pace_ns) != len(sampled.samples_ns):
            return sampled
        pairs = zip(sampled.samples_ns, sampled.pace_ns, strict=True)
        return replace(sampled, samples_ns=[s * self.reference_ns / p for s, p in pairs])
