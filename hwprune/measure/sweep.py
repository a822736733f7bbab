"""One sweep over kernels that are not in the table yet: build a batch, time it, judge it."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hwprune.errors import MeasureError
from hwprune.latency.choice import ChoiceTable, choice_label
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.rows import FAILED_PREFIX, OK, UNTRUSTED, Row, one_line
from hwprune.measure.build import Builder, BuildJob
from hwprune.measure.guard import DRIFT_LIMIT, Disturbance, disturbance, drift
from hwprune.measure.rotation import copies_for, sentinel_spec
from hwprune.measure.runners.base import Runner
from hwprune.measure.sampling import Sampled
from hwprune.measure.stats import summarise
from hwprune.measure.stopping import MeasureProfile
from hwprune.measure.table_writer import TableWriter, timestamp

#: Timings whose median the sentinel's reference is.
SENTINEL_TIMINGS = 3

Progress = Callable[[int, int, str], None]
_log = logging.getLogger(__name__)


@dataclass
class ProfileReport:
    """What a sweep did.

    ``skipped`` kernels were in the table already. ``untrusted`` counts earlier rows that this
    sweep has discredited, too. ``failures`` maps the digest of a kernel to its label and reason.
    ``warnings`` are sentences for the user.
    """

    directory: Path
    requested: int
    skipped: int
    measured: int = 0
    untrusted: int = 0
    failures: dict[str, str] = field(default_factory=dict[str, str])
    warnings: list[str] = field(default_factory=list[str])
    build_s: float = 0.0
    time_s: float = 0.0


class Sweep:
    """One sweep's parts, so that its steps need not hand them around."""

    def __init__(
        self,
        writer: TableWriter,
        builder: Builder,
        runner: Runner,
        profile: MeasureProfile,
        report: ProfileReport,
        scratch: Path,
        progress: Progress | None,
        total: int,
        retries: int,
        choices: ChoiceTable,
    ) -> None:
        self._writer, self._builder, self._runner = writer, builder, runner
        self._profile, self._report, self._scratch = profile, report, scratch
        self._progress, self._total, self._retries = progress, total, retries
        self._finished = 0
        self._choices = choices
        self._sentinel = self._job(sentinel_spec(), "sentinel.so")
        self._reference = 0.0

    def prepare_sentinel(self) -> None:
        """Build the sentinel and find out what it takes today, or what it took when we began."""
        for _, failure in self._builder.build([self._sentinel]):
            if failure is not None:
                raise MeasureError(
                    f"no kernel can be built for this target: {failure}",
                    hint="check the compiler set-up; the kernel tried is a plain 3x3 convolution",
                )
        known = self._writer.get(self._sentinel.spec)
        if known is not None and known.status == OK:
            self._reference = known.median
            return
        before = self._runner.core_times()
        timings = [self._runner.measure(self._sentinel.path, self._profile) for _ in range(SENTINEL_TIMINGS)]
        others = disturbance(before, self._runner.core_times())
        medians = [statistics.median(timing.samples_ns) for timing in timings]
        middle = timings[medians.index(statistics.median_low(medians))]
        row = self._timed_row(self._sentinel, middle)
        self._reference = row.median
        # Timed in unrest it serves this sweep, but the next one finds its own.
        quiet = self._unrest(others, sum(map(self._starved, timings)), len(timings)) is None
        self._writer.append(row if quiet else replace(row, status=UNTRUSTED))

    def run(self, specs: Sequence[KernelSpec]) -> None:
        """Build a batch, then time it; time it again if the machine was disturbed."""
        jobs = [self._job(s, f"{s.digest()}.so") for s in specs]
        self._tell(f"building {len(jobs)} kernels")
        start = time.perf_counter()
        built: set[str] = set()
        for job, failure in self._builder.build(jobs):
            if failure is None:
                built.add(job.spec.digest())
            else:
                self._fail(job, failure)
                self._advance(job)
        self._report.build_s += time.perf_counter() - start

        start = time.perf_counter()
        # In the order of the batch, which is random, not in the order in which builds ended.
        pending = [job for job in jobs if job.spec.digest() in built]
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

    def _time(self, jobs: Sequence[BuildJob], *, first: bool) -> tuple[dict[str, Row], str | None]:
        """Time jobs; returns the good rows by digest, and what disturbed them if anything did."""
        rows: dict[str, Row] = {}
        before = self._runner.core_times()
        starved = 0
        for job in jobs:
            try:
                sampled = self._runner.measure(job.path, self._profile)
            except MeasureError as error:
                self._fail(job, error.message)
            else:
                row = self._timed_row(job, sampled)
                starved += self._starved(sampled)
                rows[row.digest] = row
                self._writer.append(row)
                self._report.measured += first
                self._report.failures.pop(row.digest, None)
            if first:
                self._advance(job)
        others = disturbance(before, self._runner.core_times())
        if not rows:
            return rows, None
        return rows, self._unrest(others, starved, len(rows)) or self._drifted(set(rows))

    def _unrest(self, others: Disturbance, starved: int, count: int) -> str | None:
        """What the books say against a series of ``count`` timings."""
        limit = self._profile.max_disturbance
        if others.share > limit:
            return str(others)
        if starved > limit * count:
            return f"{starved} of {count} kernels did not get their cores"
        return None

    def _drifted(self, batch: set[str]) -> str | None:
        """What the sentinel says against the batch just timed.

        A machine that is faster now than it was at the reference was disturbed then: what was
        timed before is called untrusted, and from now on the faster time is the reference.
        """
        try:
            row = self._timed_row(self._sentinel, self._runner.measure(self._sentinel.path, self._profile))
        except MeasureError as error:
            return f"the sentinel kernel failed: {error.message}"
        change = drift(self._reference, row.median)
        why = f"the sentinel kernel drifted by {change:+.0%}"
        if change < -DRIFT_LIMIT:
            earlier = [r for r in self._writer if r.status == OK and r.digest not in {*batch, row.digest}]
            if earlier:
                self._distrust(earlier, f"{why} since")
            self._writer.append(row)
            self._reference = row.median
        return why if abs(change) > DRIFT_LIMIT else None

    def _starved(self, sampled: Sampled) -> bool:
        """Whether others ran on our core meanwhile. With threads, waiting looks the same."""
        return self._runner.threads == 1 and sampled.cpu_share < 1 - self._profile.max_disturbance

    def _distrust(self, rows: Collection[Row], why: str) -> None:
        for row in rows:
            self._writer.append(replace(row, status=UNTRUSTED))
        self._report.untrusted += len(rows)
        self._report.warnings.append(f"{len(rows)} kernels are untrusted: {why}")

    def _fail(self, job: BuildJob, reason: str) -> None:
        status = FAILED_PREFIX + one_line(reason)
        self._report.failures[job.spec.digest()] = f"{job.spec.label()}: {one_line(reason)}"
        _log.warning("kernel %s failed: %s", job.spec.label(), one_line(reason))
        self._writer.append(self._row(job, (0.0, 0.0, 0.0, 0.0, 0.0), 0, status))

    def _timed_row(self, job: BuildJob, sampled: Sampled) -> Row:
        s = summarise(sampled.samples_ns)
        return self._row(job, (s.median, s.ci_low, s.ci_high, s.minimum, s.mean), s.n, OK)

    def _row(
        self, job: BuildJob, numbers: tuple[float, float, float, float, float], n: int, status: str
    ) -> Row:
        spec = job.spec
        unit, choice = self._runner.unit, choice_label(job.choice)
        digest, label, canonical = spec.digest(), spec.label(), spec.canonical()
        return Row(digest, label, canonical, unit, *numbers, n, status, job.copies, timestamp(), choice)

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
