"""Who times and checks the forms of a kernel for a search."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Protocol

from hwprune.measure.build import BuildJob
from hwprune.measure.device import measuring_cores
from hwprune.measure.process import WorkerProcess
from hwprune.target import Target

RACE_TIMEOUT_S = 120.0
#: A form replaces another only if it is faster by at least this share, in the median of its turns and
#: in the minimum: less is noise.
LEAST_GAIN = 0.02


def faster(samples: Sequence[Sequence[float]]) -> list[int]:
    """Which forms beat the first one by more than noise, the fastest first.

    Only those that stayed in the race to its end count.
    """
    medians = [statistics.median(values) for values in samples]
    most = max(len(values) for values in samples)

    def gain(i: int) -> float:
        return min(medians[0] / medians[i], min(samples[0]) / min(samples[i]))

    finalists = [i for i in range(1, len(samples)) if len(samples[i]) == most]
    ranked = sorted(finalists, key=lambda i: medians[i])
    count = next((n for n, i in enumerate(ranked) if gain(i) < 1 + LEAST_GAIN), len(ranked))
    return ranked[:count]


class Judge(Protocol):
    """Times and checks built forms. The first job is the default."""

    def race(self, jobs: Sequence[BuildJob], seed: int) -> list[list[float]]:
        """Nanoseconds per call, a list for each job."""
        ...

    def error(self, default: BuildJob, other: BuildJob, seed: int) -> float:
        """Largest difference of the outputs, relative to the largest."""
        ...


class LocalJudge:
    """Races in a pinned process on this machine, a fresh set of libraries for every kernel."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._worker = WorkerProcess(
            measuring_cores(target.threads), target.threads, "search worker", hidden=["torch"]
        )

    def race(self, jobs: Sequence[BuildJob], seed: int) -> list[list[float]]:
        """See :class:`Judge`."""
        arguments = {"paths": [str(job.path) for job in jobs]}
        return self._ask("RaceEngine", arguments, "race", seed)["samples_ns"]

    def error(self, default: BuildJob, other: BuildJob, seed: int) -> float:
        """See :class:`Judge`."""
        arguments = {
            "spec": default.spec.canonical(),
            "target": self._target.model_dump(mode="json"),
            "forms": [
                {"path": str(job.path), "choice": job.choice.to_dict() if job.choice else None}
                for job in (default, other)
            ],
        }
        return float(self._ask("CheckEngine", arguments, "compare", seed)["difference"])

    def _ask(self, engine: str, arguments: dict[str, Any], method: str, seed: int) -> dict[str, Any]:
        load = {"do": "load", "engine": f"hwprune.measure.race:{engine}", "arguments": arguments}
        self._worker.request(load, RACE_TIMEOUT_S)
        ask = {"do": "ask", "method": method, "arguments": {"seed": seed}}
        return self._worker.request(ask, RACE_TIMEOUT_S)

    def __enter__(self) -> LocalJudge:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()
