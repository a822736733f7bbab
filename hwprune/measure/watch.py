"""Watches the machine while a series of kernels is timed, and says what speaks against the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwprune.measure.conditions import Conditions, spoiled
from hwprune.measure.guard import CoreTimes, disturbance
from hwprune.measure.runners.base import Runner
from hwprune.measure.sampling import Sampled


class Watch:
    """One sweep's view of its runner's machine: call :meth:`begin` and :meth:`end` around timings.

    Parameters
    ----------
    runner
        Whose cores are watched.
    max_disturbance
        Share of the measuring cores that others may have.
    """

    def __init__(self, runner: Runner, max_disturbance: float) -> None:
        self._runner, self._limit = runner, max_disturbance
        self._times: CoreTimes | None = None
        self._before: Conditions | None = None
        #: First and latest reading, both right after work where there was any.
        self.first: Conditions | None = None
        self.latest: Conditions | None = None
        #: Highest and lowest clock of the slowest measuring core, and temperature, right after work.
        self._clocks: list[float] = []
        self._hottest: float | None = None

    def begin(self) -> None:
        """Timings follow."""
        self._times = self._runner.core_times()
        self._note(self._runner.conditions())
        self._before = self.latest

    def end(self, sampled: Sequence[Sampled]) -> str | None:
        """What spoils the timings since :meth:`begin`, in words, or None."""
        after = self._runner.conditions()  # first of all: the clock falls when the work is done
        others = disturbance(self._times, self._runner.core_times())
        self._note(after)
        if after is not None and after.slowest_mhz is not None:
            self._clocks.append(after.slowest_mhz)
        if others.share > self._limit:
            return str(others)
        starved = sum(map(self._starved, sampled))
        if starved > self._limit * len(sampled):
            return f"{starved} of {len(sampled)} kernels did not get their cores"
        return spoiled(max(self._clocks, default=None), self._before, after)

    def to_dict(self) -> dict[str, Any]:
        """First and latest reading, and the extremes between them, for the sweep's record."""
        return {
            "start": self.first.to_dict() if self.first else None,
            "end": self.latest.to_dict() if self.latest else None,
            "slowest_mhz": min(self._clocks, default=None),
            "fastest_mhz": max(self._clocks, default=None),
            "hottest_c": self._hottest,
        }

    def _note(self, reading: Conditions | None) -> None:
        if reading is None:
            return
        self.first, self.latest = self.first or reading, reading
        if reading.temperature_c is not None:
            self._hottest = max(self._hottest or reading.temperature_c, reading.temperature_c)

    def _starved(self, sampled: Sampled) -> bool:
        """Whether others ran on our core meanwhile. With threads, waiting looks the same."""
        share = sampled.cpu_share
        return self._runner.threads == 1 and share is not None and share < 1 - self._limit
