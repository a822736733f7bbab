"""What the kernels of a network take in their present forms, roughly: to tell which stay behind."""

from __future__ import annotations

import contextlib
import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from hwprune.errors import MeasureError, TableError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.table import LatencyTable
from hwprune.measure.build import Builder, BuildJob
from hwprune.measure.judge import Judge
from hwprune.measure.rotation import copies_for
from hwprune.measure.sweep import Progress

_log = logging.getLogger(__name__)


class PresentTimes:
    """Times kernels, first by the latency table's rows, then by short runs of their own.

    The short runs are not written to the table: its rows are measured with more care.

    Parameters
    ----------
    choices, directory
        The present forms, and the directory of the table that they belong to.
    builder, judge
        Who builds and times.
    scratch
        Directory for libraries.
    seed
        Of the judge.
    progress
        Called with (done, total, label).
    """

    def __init__(
        self,
        choices: ChoiceTable,
        directory: Path,
        builder: Builder,
        judge: Judge,
        scratch: Path,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self._choices, self._directory = choices, directory
        self._builder, self._judge = builder, judge
        self._scratch, self._seed, self._progress = scratch, seed, progress

    def __call__(self, specs: Sequence[KernelSpec]) -> Mapping[str, float]:
        """Nanoseconds of one call by digest; kernels that cannot be timed are missing."""
        unique = {spec.digest(): spec for spec in specs}
        times: dict[str, float] = {}
        # A table that is missing or damaged is no reason not to tune.
        with contextlib.suppress(TableError):
            rows = LatencyTable.load(self._directory)
            times = {row.digest: row.median for row in rows if row.digest in unique and row.median > 0}
        jobs = [
            BuildJob(spec, self._scratch / f"{digest}-now.so", copies_for(spec), self._choices.get(spec))
            for digest, spec in unique.items()
            if digest not in times
        ]
        self._tell(0, len(jobs), f"building {len(jobs)} kernels")
        built = {job.path for job, failure in self._builder.build(jobs) if failure is None}
        for number, job in enumerate(jobs):
            if job.path in built:
                try:
                    (samples,) = self._judge.race([job], self._seed)
                    times[job.spec.digest()] = statistics.median(samples)
                except MeasureError as error:
                    _log.warning("kernel %s cannot be timed: %s", job.spec.label(), error.message)
                for path in (job.path, job.path.with_suffix(".json")):
                    path.unlink(missing_ok=True)
            self._tell(number + 1, len(jobs), job.spec.label())
        return times

    def _tell(self, done: int, total: int, label: str) -> None:
        if self._progress is not None and total:
            self._progress(done, total, label)
