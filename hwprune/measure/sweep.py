"""One sweep over kernels that are not in the table yet: build a batch, check it, time it, judge it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hwprune.errors import DeviceLostError, MeasureError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.rows import OK, UNTRUSTED, Row, one_line
from hwprune.measure.build import BuildJob
from hwprune.measure.outcome import ProfileReport
from hwprune.measure.pace import Pace
from hwprune.measure.record import failed_row, timed_row
from hwprune.measure.rotation import copies_for, sentinel_spec
from hwprune.measure.runners.base import measure_each
from hwprune.measure.sampling import Sampled
from hwprune.measure.sentinel import DRIFT_LIMIT, Sentinel
from hwprune.measure.series import Series
from hwprune.measure.stopping import MeasureProfile
from hwprune.measure.table_writer import TableWriter
from hwprune.measure.values import Checker
from hwprune.measure.watch import Watch
from hwprune.measure.workshop import Workshop

Progress = Callable[[int, int, str], None]
_log = logging.getLogger(__name__)


class Sweep:
    """One sweep's parts, so that its steps need not hand them around.

    ``checker`` None leaves the values that kernels return unchecked.
    """

    def __init__(
        self,
        writer: TableWriter,
        workshop: Workshop,
        checker: Checker | None,
        profile: MeasureProfile,
        report: ProfileReport,
        scratch: Path,
        progress: Progress | None,
        total: int,
        retries: int,
        choices: ChoiceTable,
        seed: int,
    ) -> None:
        self._writer, self._workshop, self._checker = writer, workshop, checker
        self._builder, self._runner = workshop.builder, workshop.runner
        self._profile, self._report, self._scratch = profile, report, scratch
        self._progress, self._total = progress, total
        #: Disturbed passes that a batch may repeat: in general, and in the next one.
        self._retries = self._patience = retries * profile.passes
        self._order = random.Random(seed)
        self._finished = 0
        self._choices = choices
        self._slice = profile.one_pass()
        self._pace = Pace()
        self._sentinel = Sentinel(self._time_sentinel, profile.passes)
        self._watch = Watch(self._runner, profile.max_disturbance)

    def prepare_sentinel(self) -> None:
        """Build the sentinel and find out what it takes today, or what it took when we began.

        What an earlier sweep of the workshop has found out about this table still holds: passes look
        for drift by themselves.
        """
        self._sentinel_job = job = self._workshop.sentinel(self._choices.get(sentinel_spec()), self._checker)
        known = self._writer.get(job.spec)
        pace = self._workshop.pace_of(self._writer.directory, known) if known and known.status == OK else None
        if known is not None and pace is not None:
            self._pace, self._sentinel.reference = pace, known.median
            return
        self._watch.begin()
        timings = self._sentinel.settle()
        unrest = self._watch.end(timings)
        if known is not None and known.status == OK:
            self._pace.learn(timings, known.median)
            self._sentinel.reference = known.median
            self._workshop.settled(self._writer.directory, known, self._pace)
            return
        self._pace.learn(timings)
        timings = [self._pace.steady(timing) for timing in timings]
        self._sentinel.refer_to(timings)
        row, samples = timed_row(job, timings, self._profile, self._runner.unit)
        # Timed in unrest it serves this sweep, but the next one finds its own.
        self._writer.append(self._untrusted(row, unrest) if unrest else row, samples)
        self._workshop.settled(self._writer.directory, row, self._pace)

    def run(self, specs: Sequence[KernelSpec]) -> None:
        """Build and check a batch, then time it in passes, until every kernel has enough of them."""
        jobs = [self._job(s, f"{s.digest()}.so") for s in specs]
        self._tell(f"building {len(jobs)} kernels")
        # In the order of the batch, which is random, not in the order in which builds ended.
        batch = {job.path: Series(job) for job in self._checked(self._built(jobs))}
        start = time.perf_counter()
        patience, gave_up = self._patience, False
        while due := [series for series in batch.values() if series.wants_more(self._profile)]:
            why = self._pass(due, batch)
            if why is None:
                continue
            _log.info("pass disturbed (%s)%s", why, ", timing it again" if patience else "")
            if not patience:
                self._distrust_batch([series for series in due if series.job.path in batch], why)
                gave_up = True
                break
            patience -= 1
        # Timing again helps against a short disturbance. One that lasts must not double all costs.
        self._patience = 0 if gave_up else self._retries
        self._report.time_s += time.perf_counter() - start
        for job in jobs:
            self._remove(job)
        self.record()

    def record(self) -> None:
        """Write what is known about the machine to the sweep's record in the manifest."""
        found = {**self._watch.to_dict(), "sentinel": self._sentinel.to_dict()}
        self._writer.observe({**found, "pace_ns": self._pace.reference_ns})

    def _built(self, jobs: Sequence[BuildJob]) -> list[BuildJob]:
        start = time.perf_counter()
        failures = {job.spec.digest(): failure for job, failure in self._builder.build(jobs)}
        self._report.build_s += time.perf_counter() - start
        return self._without(jobs, failures)

    def _checked(self, jobs: Sequence[BuildJob]) -> list[BuildJob]:
        """The jobs whose libraries return the right values, or cannot be checked."""
        if self._checker is None or not jobs:
            return list(jobs)
        start = time.perf_counter()
        complaints: dict[str, str | None] = {}
        for job, verdict in self._checker.check(jobs):
            complaints[job.spec.digest()] = verdict.complaint
            if verdict.unchecked is None:
                self._report.checked += 1
            else:
                self._report.unchecked[job.spec.digest()] = f"{job.spec.label()}: {verdict.unchecked}"
        self._report.check_s += time.perf_counter() - start
        return self._without(jobs, complaints)

    def _without(self, jobs: Sequence[BuildJob], failures: dict[str, str | None]) -> list[BuildJob]:
        """Record failures, and leave their jobs out."""
        kept: list[BuildJob] = []
        for job in jobs:
            failure = failures[job.spec.digest()]
            if failure is None:
                kept.append(job)
            else:
                self._fail(job, failure)
                self._advance(job)
        return kept

    def _pass(self, due: Sequence[Series], batch: dict[Path, Series]) -> str | None:
        """Time kernels once more, in an order of its own; what disturbed this pass, if anything did.

        Kernels that fail leave the batch.
        """
        taken: dict[Path, Sampled] = {}
        self._watch.begin()
        paths = [series.job.path for series in self._order.sample(due, len(due))]
        for path, timed in measure_each(self._runner, paths, self._slice):
            sampled = self._pace.steady(timed) if isinstance(timed, Sampled) else timed
            series = batch[path]
            failure = self._failure(series.job, sampled)
            first = not series.parts and not series.spoiled
            if failure is not None:
                self._fail(series.job, failure)
                del batch[path]
            else:
                assert isinstance(sampled, Sampled)
                taken[path] = sampled
                self._write(series.job, [*series.parts, sampled], first=first)
            if first:
                self._advance(series.job)
        if not taken:
            return None
        change = self._drifted(batch)
        why = self._watch.end(list(taken.values())) or change
        for path, sampled in taken.items():
            (batch[path].spoiled if why else batch[path].parts).append(sampled)
        return why

    @staticmethod
    def _failure(job: BuildJob, sampled: Sampled | MeasureError) -> str | None:
        if isinstance(sampled, MeasureError):
            return sampled.message
        # What TVM makes of an operator of PyTorch may well be the logarithm of a negative number.
        if sampled.nonfinite and job.spec.anchor != "fallback":
            return f"returned {sampled.nonfinite} values that are not finite"
        return None

    def _write(self, job: BuildJob, parts: Sequence[Sampled], *, first: bool = False) -> Row:
        row, samples = timed_row(job, parts, self._profile, self._runner.unit)
        self._writer.append(row, samples)
        self._report.timed(row, first=first)
        return row

    def _time_sentinel(self) -> Sampled:
        return self._pace.steady(self._runner.measure(self._sentinel_job.path, self._slice))

    def _drifted(self, batch: Mapping[Path, Series]) -> str | None:
        """What the sentinel says against the pass just made.

        A machine that is faster now than it was at the reference was disturbed then: what was
        timed before is called untrusted, and from now on the faster time is the reference.
        """
        try:
            change, parts = self._sentinel.change(self._finished)
        except DeviceLostError:
            raise  # nothing can be timed any more
        except MeasureError as error:
            return f"the sentinel kernel failed: {error.message}"
        why = f"the sentinel kernel drifted by {change:+.0%}"
        if change < -DRIFT_LIMIT:
            row, samples = timed_row(self._sentinel_job, parts, self._profile, self._runner.unit)
            own = {row.digest, *(series.job.spec.digest() for series in batch.values())}
            earlier = [r for r in self._writer if r.status == OK and r.digest not in own]
            for series in batch.values():
                series.spoil()
            if earlier:
                self._distrust(earlier, f"{why} since")
            self._writer.append(row, samples)
            self._sentinel.reference = row.median
        return why if abs(change) > DRIFT_LIMIT else None

    def _distrust_batch(self, due: Sequence[Series], why: str) -> None:
        """Give up on passes that are missing: rows without enough good ones are not to be trusted."""
        rows: list[Row] = []
        for series in due:
            enough = len(series.parts) >= self._profile.passes
            row = self._write(series.job, series.parts if enough else [*series.parts, *series.spoiled])
            rows += [] if enough else [row]
        if rows:
            self._distrust(rows, why)

    def _distrust(self, rows: Collection[Row], why: str) -> None:
        for row in rows:
            self._writer.append(self._untrusted(row, why))
        self._report.untrusted += len(rows)
        self._report.warnings.append(f"{len(rows)} kernels are untrusted: {why}")

    @staticmethod
    def _untrusted(row: Row, why: str) -> Row:
        return replace(row, status=UNTRUSTED, note="; ".join(filter(None, (why, row.note))))

    def _fail(self, job: BuildJob, reason: str) -> None:
        self._report.failures[job.spec.digest()] = f"{job.spec.label()}: {one_line(reason)}"
        _log.warning("kernel %s failed: %s", job.spec.label(), one_line(reason))
        self._writer.append(failed_row(job, reason, self._runner.unit))

    def _job(self, spec: KernelSpec, name: str) -> BuildJob:
        return BuildJob(spec, self._scratch / name, copies_for(spec), self._choices.get(spec))

    def _advance(self, job: BuildJob) -> None:
        self._finished += 1
        self._tell(job.spec.label())

    def _tell(self, label: str) -> None:
        if self._progress is not None:
            self._progress(self._finished, self._total, label)

    @staticmethod
    def _remove(job: BuildJob) -> None:
        for path in (job.path, job.path.with_suffix(".json")):
            path.unlink(missing_ok=True)
