"""How one engine is timed inside the worker: calls per sample, warm-up, samples, stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from hwprune.measure.stopping import MeasureProfile

#: Calls in one sample at most, for kernels that cost next to nothing.
MAX_NUMBER = 1_000_000
#: Warm-up ends when this many samples in a row ...
STEADY_SAMPLES = 3
#: ... lie within this share of each other.
STEADY_SPREAD = 0.03
#: Between two looks at the criteria no more than about this long: samples of a slow kernel are dear.
CHUNK_S = 0.05


class TimedEngine(Protocol):
    """Anything that can be run again and again.

    One whose clock is on another machine has an attribute ``calls_per_run``: one run lasts that many
    times what :meth:`time` says.
    """

    def time(self, number: int, repeat: int) -> list[float]:
        """``repeat`` samples, each the mean seconds per call over ``number`` runs."""
        ...


@runtime_checkable
class TellsShare(Protocol):
    """An engine whose work is not done in this process, and that knows what it cost."""

    def cpu_share(self) -> float | None:
        """Processor time over elapsed time; None if it cannot tell."""
        ...


@dataclass(frozen=True)
class Sampled:
    """Raw samples of one measurement.

    Attributes
    ----------
    samples_ns
        Nanoseconds per call.
    number
        Runs behind each sample.
    warmup
        Samples that were thrown away first.
    elapsed_s
        Time spent on ``samples_ns``.
    cpu_share
        Processor time over elapsed time: below the number of threads, others had the cores. None
        where the device does not tell.
    unmet
        The criterion that was not met when time ran out, if any.
    nonfinite
        Values in the last output that are no finite numbers, where the engine can tell.
    pace_ns
        Nanoseconds of a fixed piece of work beside each sample, where the engine has one.
    """

    samples_ns: list[float]
    number: int
    warmup: int
    elapsed_s: float
    cpu_share: float | None
    unmet: str | None
    nonfinite: int = 0
    pace_ns: list[float] = field(default_factory=list[float])

    def to_dict(self) -> dict[str, Any]:
        """For the wire."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Sampled:
        """Inverse of :meth:`to_dict`."""
        return Sampled(**data)


def calibrate(engine: TimedEngine, sample_s: float) -> int:
    """Runs per sample so that a sample lasts ``sample_s`` or a little more.

    The wall clock decides, not what the engine returns: one run of it may hold many calls.
    """
    number = 1
    # The first run pays for page faults and lazy set-up: it only counts where that cannot matter.
    if _wall(engine, number) >= 8 * sample_s:
        return number
    while True:
        wall = _wall(engine, number)
        if wall >= 0.8 * sample_s or number >= MAX_NUMBER:
            return number
        # At most tenfold at once: a short run misjudges the cost of a long one.
        wanted = math.ceil(number * sample_s / max(wall, 1e-9))
        number = min(MAX_NUMBER, max(2 * number, min(wanted, 10 * number)))


def _wall(engine: TimedEngine, number: int) -> float:
    start = time.perf_counter()
    samples = engine.time(number, 1)
    return _spent(engine, samples, number, time.perf_counter() - start)


def _spent(engine: TimedEngine, samples: Sequence[float], number: int, wall_s: float) -> float:
    """Seconds that samples took. Where the clock is on another machine, ours also counts the way there."""
    calls: int | None = getattr(engine, "calls_per_run", None)
    return wall_s if calls is None else sum(samples) * number * calls


def warm_up(engine: TimedEngine, number: int, limit: int, limit_s: float) -> int:
    """Run until a few samples in a row agree, or a limit is reached; returns how many it took."""
    recent: list[float] = []
    start = time.perf_counter()
    for taken in range(1, limit + 1):
        recent = [*recent[-(STEADY_SAMPLES - 1) :], *engine.time(number, 1)]
        if len(recent) >= STEADY_SAMPLES and max(recent) <= (1 + STEADY_SPREAD) * min(recent):
            return taken
        if time.perf_counter() - start >= limit_s:
            return taken
    return limit


def sample(engine: TimedEngine, profile: MeasureProfile) -> Sampled:
    """Time an engine with the care that ``profile`` asks for."""
    number = calibrate(engine, profile.sample_s)
    stopping = profile.stopping
    warmup = warm_up(engine, number, profile.max_warmup, stopping.timeout_s / 4)
    samples_ns: list[float] = []
    pace_ns: list[float] = []
    repeat = 1
    elapsed = cpu = 0.0  # of the engine alone, without our own statistics
    while True:
        start, cpu_start = time.perf_counter(), time.process_time()
        samples = _beside(engine, number, repeat, pace_ns)
        cpu += time.process_time() - cpu_start
        elapsed += _spent(engine, samples, number, time.perf_counter() - start)
        samples_ns += [s * 1e9 for s in samples]
        # A chunk of a long kernel must not run far past the timeout.
        one = elapsed / len(samples_ns)
        fitting = int(min(stopping.timeout_s - elapsed, CHUNK_S) / max(one, 1e-9))
        repeat = max(1, min(profile.chunk, fitting))
        # While the core changes its speed, only times over the pace beside them can agree.
        steady = [s / p for s, p in zip(samples_ns, pace_ns, strict=True)] if pace_ns else samples_ns
        unmet = stopping.unmet(steady, elapsed)
        if unmet is None or stopping.timed_out(samples_ns, elapsed):
            share = engine.cpu_share() if isinstance(engine, TellsShare) else cpu / max(elapsed, 1e-9)
            return Sampled(samples_ns, number, warmup, elapsed, share, unmet, pace_ns=pace_ns)


def _beside(engine: TimedEngine, number: int, repeat: int, pace_ns: list[float]) -> list[float]:
    """Samples of an engine; the pace before and after each of them, averaged, goes to ``pace_ns``."""
    pace: Callable[[], float] | None = getattr(engine, "pace", None)
    if pace is None:
        return engine.time(number, repeat)
    samples: list[float] = []
    before = pace()
    for _ in range(repeat):
        samples += engine.time(number, 1)
        after = pace()
        pace_ns.append((before + after) / 2 * 1e9)
        before = after
    return samples
