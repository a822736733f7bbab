"""Times kernels on this machine, in a pinned process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwprune.measure.conditions import Conditions, read_conditions
from hwprune.measure.device import measuring_cores
from hwprune.measure.guard import CoreTimes, read_core_times
from hwprune.measure.process import WorkerProcess
from hwprune.measure.runners.base import Provenance, Unit
from hwprune.measure.sampling import Sampled
from hwprune.measure.stopping import MeasureProfile

DEFAULT_ENGINE = "hwprune.compile:KernelRunner"
START_TIMEOUT_S = 60.0


class LocalRunner:
    """Wall-clock nanoseconds on the last ``threads`` cores.

    Parameters
    ----------
    threads
        Threads of the compiled kernels, and cores the process is pinned to.
    engine
        ``package.module:Class`` made with the library's path; see
        :class:`hwprune.measure.sampling.TimedEngine`.
    """

    unit: Unit = "ns"
    provenance: Provenance = "measured"

    def __init__(self, threads: int = 1, *, engine: str = DEFAULT_ENGINE) -> None:
        self.threads = threads
        self.cores = measuring_cores(threads)
        self._engine = engine
        self._worker = WorkerProcess(self.cores, threads, hidden=["torch"])
        #: The worker that has imported its engine.
        self._ready: int | None = None

    def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
        """See :class:`hwprune.measure.runners.base.Runner`."""
        message: dict[str, Any] = {
            "do": "measure",
            "engine": self._engine,
            "arguments": {"path": str(library)},
            "profile": profile.to_dict(),
        }
        if self._worker.pid is None or self._worker.pid != self._ready:
            self._start()
        return Sampled.from_dict(self._worker.request(message, profile.job_timeout_s))

    def _start(self) -> None:
        """Start the worker before the clock of a kernel runs: on a busy machine it takes seconds."""
        load = {"name": self._engine.partition(":")[0]}
        self._worker.request(
            {"do": "call", "function": "importlib:import_module", "arguments": load}, START_TIMEOUT_S
        )
        self._ready = self._worker.pid

    def about(self) -> dict[str, Any]:
        """Process number, cores, thread setting and loaded modules of the worker."""
        return self._worker.request({"do": "about"}, START_TIMEOUT_S)

    def core_times(self) -> CoreTimes | None:
        """See :class:`hwprune.measure.runners.base.Runner`."""
        self.about()  # starts the worker if there is none: its own time must be in the books
        return read_core_times(self.cores, self._worker.pid)

    def conditions(self) -> Conditions | None:
        """See :class:`hwprune.measure.runners.base.Runner`."""
        return read_conditions(self.cores)

    def close(self) -> None:
        """End the worker."""
        self._worker.close()
