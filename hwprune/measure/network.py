"""Times whole networks end to end, interleaved, in pinned processes."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping
from pathlib import Path

from hwprune.measure.device import measuring_cores
from hwprune.measure.process import WorkerProcess
from hwprune.measure.runners.local import DEFAULT_ENGINE
from hwprune.measure.stats import Summary, summarise
from hwprune.measure.stopping import MeasureProfile


def time_libraries(
    libraries: Mapping[str, Path],
    *,
    threads: int,
    profile: MeasureProfile,
    seed: int = 0,
    engine: str = DEFAULT_ENGINE,
) -> dict[str, Summary]:
    """Time built networks in turn, so that the machine's drift hits all of them alike.

    Each network has a worker process of its own, all pinned to the same cores; only one runs at a
    time, in an order drawn anew for each of the profile's rounds.

    Parameters
    ----------
    libraries
        Built libraries by the caller's name.

    Returns
    -------
    dict
        Summary of nanoseconds per run, by the same names.

    Raises
    ------
    MeasureError
        A network crashed, hung, or could not be loaded.
    """
    order = random.Random(seed)
    samples: dict[str, list[float]] = {name: [] for name in libraries}
    cores = measuring_cores(threads)
    timeout = profile.job_timeout_s + 60.0
    with contextlib.ExitStack() as stack:
        workers: dict[str, WorkerProcess] = {}
        numbers: dict[str, int] = {}
        for name, path in libraries.items():
            worker = stack.enter_context(WorkerProcess(cores, threads, f"network '{name}'"))
            worker.request({"do": "load", "engine": engine, "arguments": {"path": str(path)}}, timeout)
            first = _ask(worker, 1, 3, timeout)
            numbers[name] = max(1, round(profile.sample_s * 1e9 / max(min(first), 1.0)))
            workers[name] = worker
        for _ in range(profile.rounds):
            for name in order.sample(sorted(workers), len(workers)):
                # The first sample after another network had the caches is not counted.
                found = _ask(workers[name], numbers[name], profile.samples_per_round + 1, timeout)
                samples[name].extend(found[1:])
    return {name: summarise(values, seed=seed) for name, values in samples.items()}


def _ask(worker: WorkerProcess, number: int, repeat: int, timeout: float) -> list[float]:
    answer = worker.request({"do": "time", "number": number, "repeat": repeat}, timeout)
    return [float(value) for value in answer["samples_ns"]]
