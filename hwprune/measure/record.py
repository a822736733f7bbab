"""From a measurement to a table's row and the raw samples behind it."""

from __future__ import annotations

from typing import Any

from hwprune.latency.choice import choice_label
from hwprune.latency.rows import FAILED_PREFIX, OK, Row, one_line
from hwprune.latency.samples import Samples
from hwprune.measure.build import BuildJob
from hwprune.measure.sampling import Sampled
from hwprune.measure.stats import Summary, summarise
from hwprune.measure.table_writer import timestamp

_NO_TIME = Summary(0.0, 0.0, 0.0, 0.0, 0.0, (), 0)


def timed_row(job: BuildJob, sampled: Sampled, unit: str) -> tuple[Row, Samples]:
    """A trusted row. Its note names the criterion that was not met when time ran out."""
    summary = summarise(sampled.samples_ns)
    note = f"timeout: {sampled.unmet}" if sampled.unmet else ""
    about: dict[str, Any] = {
        "number": sampled.number,
        "warmup": sampled.warmup,
        "elapsed_s": round(sampled.elapsed_s, 6),
        "cpu_share": round(sampled.cpu_share, 4),
        "unmet": sampled.unmet,
        "outliers": list(summary.outliers),
    }
    return _row(job, summary, unit, OK, note), Samples(tuple(sampled.samples_ns), about)


def failed_row(job: BuildJob, reason: str, unit: str) -> Row:
    """A row without a time."""
    return _row(job, _NO_TIME, unit, FAILED_PREFIX + one_line(reason), "")


def _row(job: BuildJob, s: Summary, unit: str, status: str, note: str) -> Row:
    return Row(
        digest=job.spec.digest(),
        label=job.spec.label(),
        spec=job.spec.canonical(),
        unit=unit,
        median=s.median,
        ci_low=s.ci_low,
        ci_high=s.ci_high,
        minimum=s.minimum,
        mean=s.mean,
        samples=s.n,
        status=status,
        copies=job.copies,
        measured_at=timestamp(),
        choice=choice_label(job.choice),
        note=note,
    )
