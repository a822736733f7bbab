"""One sweep over kernels that are not in the table yet: build a batch, check it, time it, judge it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from hwprune.errors import MeasureError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.rows import OK, UNTRUSTED, Row, one_line
from hwprune.measure.build import Builder, BuildJob
from hwprune.measure.outcome import ProfileReport
from hwprune.measure.record import failed_row, timed_row
from hwprune.measure.rotation import copies_for, sentinel_spec
from hwprune.measure.runners.base import Runner
from hwprune.measure.sampling import Sampled
from hwprune.measure.sentinel import DRIFT_LIMIT, Sentinel
from hwprune.measure.stopping import MeasureProfile
from hwprune.measure.table_writer import TableWriter
from hwprune.measure.values import Checker
from hwprune.measure.watch import Watch

Progress = Callable[[int, int, str], None]
_log = logging.getLogger(__name__)


class Sweep:
    """One sweep's parts, so that its steps need not hand them around.

    ``checker`` None leaves the values that kernels return unchecked.
    """

    def __init__(
        self,
        writer: TableWriter,
        builder: Builder,
        runner: Runner,
        checker: Checker | None,
        profile: MeasureProfile,
        report: ProfileReport,
        scratch: Path,
        progress: Progress | None,
        total: int,
        retries: int,
        choices: ChoiceTable,
    ) -> None:
        self._writer, self._builder, self._runner, self._checker = writer, builder, runner, checker
        self._profile, self._report, self._scratch = profile, report, scratch
        self._progress, self._total, self._retries = progress, total, retries
        self._finished = 0
        self._choices = choices
        self._sentinel_job = self._job(sentinel_spec(), "sentinel.so")
        self._sentinel = Sentinel(lambda: runner.measure(self._sentinel_job.path, profile))
        self._watch = Watch(runner, profile.max_disturbance)

    def prepare_sentinel(self) -> None:
        """Build the sentinel and find out what it takes today, or what it took when we began."""
        job = self._sentinel_job
        for _, failure in self._builder.build([job]):
            if failure is not None:
                raise MeasureError(
                    f"no kernel can be built for this target: {failure}",
                    hint="check the compiler set-up; the kernel tried is a plain 3x3 convolution",
                )
        for _, verdict in self._checker.check([job]) if self._checker else ():
            if verdict.complaint is not None:
                raise MeasureError(
                    f"no kernel can be trusted on this target: a plain 3x3 convolution {verdict.complaint}",
                    hint="run the tests of hwprune.compile for this target",
                )
        known = self._writer.get(job.spec)
        if known is not None and known.status == OK:
            self._sentinel.reference = known.median
            return
        self._watch.begin()
        timings = self._sentinel.settle()
        unrest = self._watch.end(timings)
        row, samples = timed_row(job, timings[0], self._runner.unit)
        # Timed in unrest it serves this sweep, but the next one finds its own.
        self._writer.append(self._untrusted(row, unrest) if unrest else row, samples)

    def run(self, specs: Sequence[KernelSpec]) -> None:
        """Build and check a batch, then time it; time it again if the machine was disturbed."""
        jobs = [self._job(s, f"{s.digest()}.so") for s in specs]
        self._tell(f"building {len(jobs)} kernels")
        # In the order of the batch, which is random, not in the order in which builds ended.
        pending = self._checked(self._built(jobs))
        start = time.perf_counter()
        for attempt in range(self._retries + 1):
            rows, why = self._time(pending, first=attempt == 0)
            pending = [job for job in pending if job.spec.digest() in rows]
            if why is None or not pending:
                break
            _log.info("batch disturbed (%s)%s", why, "" if attempt == self._retries else ", timing it again")
            if attempt == self._retries:
                self._distrust(rows.values(), why)
                # Timing again helps against a short disturbance. This one lasts: do not double its cost.
                self._retries = 0
                break
        self._report.time_s += time.perf_counter() - start
        for job in jobs:
            self._remove(job)
        self.record()

    def record(self) -> None:
        """Write what is known about the machine to the sweep's record in the manifest."""
        self._writer.observe({**self._watch.to_dict(), "sentinel": self._sentinel.to_dict()})

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

    def _time(self, jobs: Sequence[BuildJob], *, first: bool) -> tuple[dict[str, Row], str | None]:
        """Time jobs; returns the good rows by digest, and what disturbed them if anything did."""
        rows: dict[str, Row] = {}
        timings: list[Sampled] = []
        self._watch.begin()
        for job in jobs:
            try:
                sampled = self._runner.measure(job.path, self._profile)
                self._require_finite(job, sampled)
            except MeasureError as error:
                self._fail(job, error.message)
            else:
                row, samples = timed_row(job, sampled, self._runner.unit)
                timings.append(sampled)
                rows[row.digest] = row
                self._writer.append(row, samples)
                self._report.timed(row, first=first)
            if first:
                self._advance(job)
        change = self._drifted(set(rows)) if rows else None
        unrest = self._watch.end(timings)
        return (rows, unrest or change) if rows else (rows, None)

    @staticmethod
    def _require_finite(job: BuildJob, sampled: Sampled) -> None:
        # What TVM makes of an operator of PyTorch may well be the logarithm of a negative number.
        if sampled.nonfinite and job.spec.anchor != "fallback":
            raise MeasureError(f"returned {sampled.nonfinite} values that are not finite")

    def _drifted(self, batch: set[str]) -> str | None:
        """What the sentinel says against the batch just timed.

        A machine that is faster now than it was at the reference was disturbed then: what was
        timed before is called untrusted, and from now on the faster time is the reference.
        """
        try:
            change, sampled = self._sentinel.change(self._finished)
        except MeasureError as error:
            return f"the sentinel kernel failed: {error.message}"
        why = f"the sentinel kernel drifted by {change:+.0%}"
        if change < -DRIFT_LIMIT:
            row, samples = timed_row(self._sentinel_job, sampled, self._runner.unit)
            earlier = [r for r in self._writer if r.status == OK and r.digest not in {*batch, row.digest}]
            if earlier:
                self._distrust(earlier, f"{why} since")
            self._writer.append(row, samples)
            self._sentinel.reference = row.median
        return why if abs(change) > DRIFT_LIMIT else None

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
