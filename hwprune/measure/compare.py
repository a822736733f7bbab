"""Compares several engines in one run, in turn, so that they share whatever the machine does.

Two benchmarks one after the other compare the machine at two times. Here every round asks every
contender for a few samples, in random order: a slow minute slows all of them.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.errors import MeasureError, UsageError
from hwprune.measure.contenders import Contender, load_arrays, save_arrays
from hwprune.measure.device import measuring_cores, usable_cores
from hwprune.measure.guard import disturbance, load_warning, read_core_times
from hwprune.measure.network import LOADS, one_load
from hwprune.measure.process import WorkerProcess
from hwprune.measure.stats import Summary, ratio_interval, summarise
from hwprune.measure.stopping import QUICK, MeasureProfile

#: Thread pools of the one before may still spin for a moment.
SETTLE_S = 0.005

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ratio:
    """Median over the reference's median, with its bootstrap interval; above 1 is slower."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """One contender's result. ``max_rel_error`` is relative to the reference's largest output."""

    name: str
    summary: Summary
    samples_ns: tuple[float, ...]
    ratio: Ratio
    max_rel_error: float


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`compare`; ``failed`` maps a contender that could not run to the reason."""

    reference: str
    threads: int
    seed: int
    profile: str
    standings: tuple[Standing, ...]
    failed: dict[str, str]
    warnings: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Standing:
        return next(s for s in self.standings if s.name == name)


@dataclass
class _Entrant:
    """What is known of a contender over all its loads."""

    outputs: list[np.ndarray]
    samples_ns: list[float] = field(default_factory=list[float])
    loads: list[int] = field(default_factory=list[int])


@dataclass(frozen=True)
class _Runner:
    name: str
    worker: WorkerProcess
    number: int
    samples_ns: list[float]


def compare(
    contenders: Mapping[str, Contender],
    inputs: Sequence[np.ndarray],
    *,
    threads: int = 1,
    profile: MeasureProfile = QUICK,
    seed: int = 0,
    reference: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Time contenders in turn on the same cores, after checking that they agree.

    Parameters
    ----------
    contenders
        Name to engine.
    inputs
        Arrays that all of them get.
    threads
        Threads of each.
    profile
        ``rounds``, ``samples_per_round`` and ``sample_s`` count here. The rounds are shared among
        ``LOADS`` processes of each contender, one after the other (see :mod:`hwprune.measure.network`).
    seed
        Of the order in each round, and of the bootstrap.
    reference
        Whom ratios and output differences refer to; default: the first that loads.
    progress
        Called with (done, total, name) after each turn.

    Returns
    -------
    Comparison
        Samples are nanoseconds per inference.

    Raises
    ------
    UsageError
        No contenders, or an unknown reference.
    MeasureError
        None of them, or not the named reference, could be loaded.
    """
    if not contenders:
        raise UsageError("nothing to compare", hint="name at least one contender")
    if reference is not None and reference not in contenders:
        raise UsageError(f"reference '{reference}' is no contender", hint=f"one of {', '.join(contenders)}")
    cores = measuring_cores(threads)
    warnings = [w for w in (load_warning(len(usable_cores())),) if w]
    failed: dict[str, str] = {}
    entrants: dict[str, _Entrant] = {}
    profile = one_load(profile)
    before = read_core_times(cores, None)
    with tempfile.TemporaryDirectory(prefix="hwprune-compare-") as folder:
        save_arrays(Path(folder) / "inputs.npz", list(inputs))
        for load in range(LOADS):
            entered = {name: c for name, c in contenders.items() if name not in failed}
            with ExitStack() as stack:
                runners: list[_Runner] = []
                for name, contender in entered.items():
                    worker = stack.enter_context(WorkerProcess(cores, threads, f"contender '{name}'"))
                    try:
                        runners.append(
                            _prepare(name, contender, worker, Path(folder), threads, profile, entrants)
                        )
                    except MeasureError as error:
                        failed[name] = error.message
                        _log.warning("contender '%s' cannot run: %s", name, error.message)
                _rounds(runners, failed, profile, seed + load, load, progress)
            for runner in runners:
                entrants[runner.name].samples_ns += runner.samples_ns
                entrants[runner.name].loads.append(len(runner.samples_ns))
    after = read_core_times(cores, None)
    if before is not None and after is not None:
        stolen = disturbance(before, after).steal
        if stolen > profile.max_disturbance:
            warnings.append(f"the hypervisor took {stolen:.0%} of the cores' time")
    entrants = {name: entrant for name, entrant in entrants.items() if name not in failed}
    # Told, not fatal: what a contender computes is its owner's business.
    warnings += [f"outputs of '{n}' are not finite" for n, e in entrants.items() if not _finite(e.outputs)]
    if not entrants or (reference is not None and reference in failed):
        who = f"the reference '{reference}'" if entrants else "no contender"
        raise MeasureError(f"{who} could be timed: " + "; ".join(f"{n}: {e}" for n, e in failed.items()))
    base = reference or next(iter(entrants))
    standings = tuple(_standing(name, e, entrants[base], seed) for name, e in entrants.items())
    return Comparison(base, threads, seed, profile.name, standings, failed, tuple(warnings))


def _prepare(
    name: str,
    contender: Contender,
    worker: WorkerProcess,
    folder: Path,
    threads: int,
    profile: MeasureProfile,
    entrants: dict[str, _Entrant],
) -> _Runner:
    """Load, take outputs at the first load, find the number of runs per sample."""
    timeout_s = profile.job_timeout_s + 60.0  # importing a framework can take long
    given: dict[str, Any] = {"inputs": str(folder / "inputs.npz"), "threads": threads}
    worker.request(
        {"do": "load", "engine": contender.engine, "arguments": {**contender.arguments, **given}}, timeout_s
    )
    if name not in entrants:
        path = folder / f"outputs-{worker.pid}.npz"
        worker.request({"do": "outputs", "path": str(path)}, timeout_s)
        entrants[name] = _Entrant(load_arrays(path))
    answer = worker.request({"do": "calibrate", "sample_s": profile.sample_s}, timeout_s)
    return _Runner(name, worker, int(answer["number"]), [])


def _rounds(
    runners: list[_Runner],
    failed: dict[str, str],
    profile: MeasureProfile,
    seed: int,
    load: int,
    progress: Callable[[int, int, str], None] | None,
) -> None:
    generator = np.random.default_rng(seed)
    turns = profile.rounds * len(runners)
    total, done = LOADS * turns, load * turns
    for _ in range(profile.rounds):
        for index in generator.permutation(len(runners)):
            runner = runners[index]
            done += 1
            if runner.name in failed:
                continue
            time.sleep(SETTLE_S)
            # The first sample of a turn pays for caches that belong to the one before.
            message = {"do": "time", "number": runner.number, "repeat": profile.samples_per_round + 1}
            try:
                answer = runner.worker.request(message, profile.job_timeout_s)
                runner.samples_ns.extend(float(s) for s in answer["samples_ns"][1:])
            except MeasureError as error:
                failed[runner.name] = error.message
            if progress is not None:
                progress(done, total, runner.name)


def _standing(name: str, entrant: _Entrant, base: _Entrant, seed: int) -> Standing:
    summary = summarise(entrant.samples_ns, seed=seed, passes=entrant.loads)
    ratio = Ratio(1.0, 1.0, 1.0)
    if entrant is not base:
        found = ratio_interval(
            entrant.samples_ns, base.samples_ns, seed=seed, passes=entrant.loads, reference_passes=base.loads
        )
        ratio = Ratio(*found)
    error = max_relative_error(entrant.outputs, base.outputs)
    return Standing(name, summary, tuple(entrant.samples_ns), ratio, error)


def _finite(outputs: Sequence[np.ndarray]) -> bool:
    return all(bool(np.isfinite(output).all()) for output in outputs)


def max_relative_error(outputs: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Largest difference over all outputs, relative to each reference's largest value.

    Infinite where numbers or shapes of outputs differ, or a value is not finite.
    """
    if len(outputs) != len(reference):
        return float("inf")
    worst = 0.0
    for one, other in zip(outputs, reference, strict=True):
        if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
            return float("inf")
        if other.size:
            scale = max(float(np.abs(other).max()), 1e-30)
            difference = np.abs(one.astype(np.float64) - other.astype(np.float64))
            worst = max(worst, float(difference.max()) / scale)
    return worst
