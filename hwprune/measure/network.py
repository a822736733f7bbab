"""Times whole networks end to end, interleaved, in pinned processes."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hwprune.measure.device import measuring_cores
from hwprune.measure.process import WorkerProcess
from hwprune.measure.runners.local import DEFAULT_ENGINE
from hwprune.measure.stats import Summary, summarise
from hwprune.measure.stopping import MeasureProfile

#: Times that every network is loaded anew: where the system puts its buffers changes the latency of a
#: small one by several percent (measured: a standard deviation of 2 to 3 % at 0.7 ms).
LOADS = 3
#: A network's sample lasts at least this long. After a pause the core's clock and caches need some
#: milliseconds to recover.
SAMPLE_S = 0.01

#: ``ask(name, number, repeat)``: nanoseconds per run of a network, ``repeat`` means of ``number`` runs.
AskNetwork = Callable[[str, int, int], list[float]]


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
    time, in an order drawn anew for each of the profile's rounds. The rounds are shared among
    ``LOADS`` processes for each network, one after the other.

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
    cores = measuring_cores(threads)
    timeout = profile.job_timeout_s + 60.0
    part = one_load(profile)
    parts = [_one_load(libraries, cores, threads, part, seed + i, engine, timeout) for i in range(LOADS)]
    return summarise_loads(parts, seed)


def _one_load(
    libraries: Mapping[str, Path],
    cores: list[int],
    threads: int,
    profile: MeasureProfile,
    seed: int,
    engine: str,
    timeout: float,
) -> dict[str, list[float]]:
    workers: dict[str, WorkerProcess] = {}

    def ask(name: str, number: int, repeat: int) -> list[float]:
        answer = workers[name].request({"do": "time", "number": number, "repeat": repeat}, timeout)
        return [float(value) for value in answer["samples_ns"]]

    with contextlib.ExitStack() as stack:
        numbers: dict[str, int] = {}
        for name, path in libraries.items():
            workers[name] = stack.enter_context(WorkerProcess(cores, threads, f"network '{name}'"))
            load = {"do": "load", "engine": engine, "arguments": {"path": str(path)}}
            workers[name].request(load, timeout)
            numbers[name] = runs_per_sample(ask(name, 1, 3), profile)
        return take_turns(numbers, ask, profile, seed)


def one_load(profile: MeasureProfile) -> MeasureProfile:
    """What one of ``LOADS`` loads takes of a profile's rounds, with samples as long as networks need."""
    rounds = -(-profile.rounds // LOADS)
    return replace(profile, rounds=rounds, sample_s=max(profile.sample_s, SAMPLE_S))


def summarise_loads(parts: Sequence[Mapping[str, list[float]]], seed: int) -> dict[str, Summary]:
    """One summary for each network from the samples of its loads; the interval covers their scatter."""
    return {
        name: summarise(
            [ns for part in parts for ns in part[name]], seed=seed, passes=[len(part[name]) for part in parts]
        )
        for name in parts[0]
    }


def runs_per_sample(first_ns: list[float], profile: MeasureProfile) -> int:
    """Runs that last a sample of the profile, from a few single ones."""
    return max(1, round(profile.sample_s * 1e9 / max(min(first_ns), 1.0)))


def take_turns(
    numbers: Mapping[str, int],
    ask: AskNetwork,
    profile: MeasureProfile,
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, list[float]]:
    """Rounds in which every network is timed once, in an order drawn anew; nanoseconds per run.

    Parameters
    ----------
    numbers
        Runs per sample of every network.
    progress
        Called with (done, total, name) after each turn.
    """
    order = random.Random(seed)
    samples: dict[str, list[float]] = {name: [] for name in numbers}
    done, total = 0, profile.rounds * len(numbers)
    for _ in range(profile.rounds):
        for name in order.sample(sorted(numbers), len(numbers)):
            # The first sample after another network had the caches is not counted.
            samples[name].extend(ask(name, numbers[name], profile.samples_per_round + 1)[1:])
            done += 1
            if progress is not None:
                progress(done, total, name)
    return samples
