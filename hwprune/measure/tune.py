"""A deeper search for kernels that stay behind, by TVM's MetaSchedule, within a number of minutes.

The short search (:mod:`hwprune.measure.search`) tries the tilings that our rules know. Tuning lets
MetaSchedule propose whole loop structures for the same stages on the same packed operands, also for
kernels that have one form only and for those left to TVM's importer. A schedule replaces a kernel's
present form only after winning a race against it and giving the same result; it is then recorded in
``choices.json`` like every other choice, so that what is measured later is what ships.

Trials are kept in ``tuning/`` beside the choices: a later run goes on from there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwprune.errors import MeasureError, UsageError
from hwprune.latency.choice import ChoiceTable, Searched, choice_label
from hwprune.latency.kernel import KernelSpec
from hwprune.measure.behind import Behind, kernels_behind
from hwprune.measure.build import Builder, BuildPool
from hwprune.measure.contest import Contest, Standing
from hwprune.measure.device import describe_device, usable_cores
from hwprune.measure.judge import Judge, LocalJudge
from hwprune.measure.lock import writing
from hwprune.measure.present import PresentTimes
from hwprune.measure.profile import scratch_directory
from hwprune.measure.proposer import MetaScheduleProposer, Proposer, require_tuner
from hwprune.measure.search import search_provenance
from hwprune.measure.site import LocalSite
from hwprune.measure.sweep import Progress
from hwprune.measure.table_writer import timestamp
from hwprune.measure.toolchain import own_directory
from hwprune.target import Target

TUNING_NAME = "tuning"
#: Schedules per round: built together, then raced together.
ROUND = 10
#: A schedule that takes longer to build is no good.
BUILD_TIMEOUT_S = 60.0
#: A kernel gets at least this long, or it is not begun; the first one always is.
LEAST_S = 10.0

_log = logging.getLogger(__name__)
#: Measured nanoseconds by digest of the present forms of kernels.
Timer = Callable[[Sequence[KernelSpec]], Mapping[str, float]]


@dataclass(frozen=True)
class TunedKernel:
    """What tuning did to a kernel that stays behind.

    ``why`` says how far behind it is and ``share`` its part of the network's time. ``trials``
    schedules were timed now and ``earlier`` before; ``failed`` of them were of no use. ``gain`` is the
    time it had over the time it has (1: nothing better was found); ``note`` says what else there is
    to know, and why it was not tuned where it was not.
    """

    label: str
    why: str
    share: float
    trials: int = 0
    earlier: int = 0
    failed: int = 0
    gain: float = 1.0
    choice: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(self.__dict__)


@dataclass
class TuneReport:
    """What a run did, for each kernel that stays behind; most to gain first."""

    kernels: list[TunedKernel] = field(default_factory=list[TunedKernel])
    seconds: float = 0.0

    @property
    def improved(self) -> list[TunedKernel]:
        """The kernels that got another form."""
        return [kernel for kernel in self.kernels if kernel.gain > 1]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"kernels": [k.to_dict() for k in self.kernels], "seconds": self.seconds}

    def summary(self) -> str:
        """One plain sentence."""
        tried = [kernel for kernel in self.kernels if kernel.trials]
        if not self.kernels:
            return "tuning: no kernel stays behind the network's best"
        trials = sum(kernel.trials for kernel in tried)
        what = f"tuning: {trials} schedules of {len(tried)} kernels in {self.seconds:.0f} s"
        if not self.improved:
            return f"{what}: none was faster than what the kernels have already; nothing was changed"
        best = max(kernel.gain for kernel in self.improved)
        return f"{what}: {len(self.improved)} kernels became faster, the most by {best:.2f}x"


def require_minutes(minutes: float) -> None:
    """Refuse a time that is none.

    Raises
    ------
    UsageError
        Zero, negative, or no number.
    """
    if not 0 < minutes < float("inf"):
        raise UsageError(
            f"tuning takes time: {minutes:g} minutes is none", hint="give --tune a positive number of minutes"
        )


def tune(
    specs: Sequence[KernelSpec],
    target: Target,
    directory: Path,
    *,
    minutes: float,
    progress: Progress | None = None,
    seed: int = 0,
    trials: int | None = None,
    builder: Builder | None = None,
    judge: Judge | None = None,
    proposer: Proposer | None = None,
    timer: Timer | None = None,
    pipeline: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TuneReport:
    """Tune the kernels of a network that stay behind its best ones.

    Parameters
    ----------
    specs
        Kernels of the network, as often as they are called.
    target, directory
        As in :func:`hwprune.measure.search.search`, which should have run before.
    minutes
        For all kernels together, shared out by what each could gain; kernels that the latency table
        lacks are timed before. A round that has begun is finished,
        and none is begun that would for the most part lie behind the end.
    progress
        Called with (trials of this kernel, 0, label) after every round.
    seed
        Of everything random.
    trials
        At most this many per kernel and run; None leaves it to the minutes.
    builder, judge, proposer, timer, pipeline, clock
        Who builds, races, proposes and times kernels, the pipeline's hash, and seconds.

    Returns
    -------
    TuneReport
        Kernel by kernel; that none became faster is a result, too.

    Raises
    ------
    UsageError
        No time was given.
    MissingExtraError
        ``hwprune[tune]`` is not installed.
    TargetError
        This machine cannot run the target.
    MeasureError
        Another process writes this directory.
    KeyboardInterrupt
        After what was found has been saved; call again to go on.
    """
    require_minutes(minutes)
    report = TuneReport()
    if proposer is None:
        require_tuner()
    if judge is None:
        LocalSite().require(target)
    with ExitStack() as stack:
        if judge is None:
            judge = stack.enter_context(LocalJudge(target))
        if builder is None:
            builder = BuildPool(target, timeout_s=BUILD_TIMEOUT_S)
            stack.callback(builder.close)
        if pipeline is None:
            from hwprune.compile import pipeline_hash

            pipeline = pipeline_hash(target)
        directory = own_directory(directory)
        stack.enter_context(writing(directory))
        if proposer is None:
            kept = directory / TUNING_NAME
            count = ROUND if trials is None else max(1, min(ROUND, trials))
            proposer = MetaScheduleProposer(target, kept, len(usable_cores()), seed, count)
            stack.callback(proposer.close)
        choices = ChoiceTable.load(directory)
        if not choices.provenance:
            choices.provenance = search_provenance(target, pipeline, seed, describe_device())
        scratch = stack.enter_context(scratch_directory(directory))
        if timer is None:
            timer = PresentTimes(choices, directory, builder, judge, scratch, seed, progress)
        behind = kernels_behind(specs, timer(specs))
        begin = clock()
        end = begin + 60 * minutes
        for number, kernel in enumerate(behind):
            left = end - clock()
            if number and left < LEAST_S:
                report.kernels.append(_entry(kernel, None, "no time was left"))
                continue
            share = kernel.lost_ns / sum(other.lost_ns for other in behind[number:])
            until = clock() + max(LEAST_S, share * left)
            present = choices.get(kernel.spec)
            contest = Contest(kernel.spec, present, builder, judge, proposer, scratch, seed)
            note = _run(contest, choices, directory, min(until, end), trials, progress, clock)
            report.kernels.append(_entry(kernel, contest.standing, note))
        report.seconds = clock() - begin
    return report


def _run(
    contest: Contest,
    choices: ChoiceTable,
    directory: Path,
    until: float,
    trials: int | None,
    progress: Progress | None,
    clock: Callable[[], float],
) -> str:
    """Rounds of one kernel, each success saved at once; returns what there is to note."""
    spec, standing = contest.spec, contest.standing
    longest = 0.0
    try:
        won = contest.begin()
        while True:
            if won:
                _record(contest, choices, directory)
            if progress is not None:
                progress(standing.trials, 0, spec.label())
            if standing.ended:
                return "all schedules were tried"
            begin = clock()
            if begin + longest / 2 >= until or (trials is not None and standing.trials >= trials):
                return ""
            won = contest.round()
            longest = max(longest, clock() - begin)
    except MeasureError as error:
        _log.warning("kernel %s cannot be tuned further: %s", spec.label(), error.message)
        return error.message
    finally:
        contest.end()


def _record(contest: Contest, choices: ChoiceTable, directory: Path) -> None:
    """Make the present form the kernel's choice."""
    spec, standing = contest.spec, contest.standing
    known = choices.entry(spec)
    timed = {**(known.medians_ns if known else {}), **(standing.medians_ns or {})}
    choices.put(spec, Searched(spec.label(), standing.choice, timed, standing.error, timestamp()))
    choices.save(directory)


def _entry(kernel: Behind, standing: Standing | None, note: str) -> TunedKernel:
    if standing is None:
        return TunedKernel(kernel.spec.label(), kernel.reason, kernel.share, note=note)
    return TunedKernel(
        kernel.spec.label(),
        kernel.reason,
        kernel.share,
        trials=standing.trials,
        earlier=standing.earlier,
        failed=standing.failed,
        gain=standing.gain,
        choice=choice_label(standing.choice),
        note=note,
    )
