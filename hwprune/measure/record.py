"""From a measurement to a table's row and the raw samples behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwprune.latency.choice import choice_label
from hwprune.latency.rows import FAILED_PREFIX, OK, Row, one_line
from hwprune.latency.samples import Samples
from hwprune.measure.build import BuildJob
from hwprune.measure.sampling import Sampled
from hwprune.measure.series import PASSES, lengths_of, samples_of, unmet
from hwprune.measure.stats import Summary, summarise
from hwprune.measure.stopping import MeasureProfile
from hwprune.measure.table_writer import timestamp

_TIMEOUT = "timeout: "
_NO_TIME = Summary(0.0, 0.0, 0.0, 0.0, 0.0, (), 0)


def timed_row(
    job: BuildJob, parts: Sequence[Sampled], profile: MeasureProfile, unit: str
) -> tuple[Row, Samples]:
    """A trusted row of the samples of one or more passes.

    Its note names the criterion of the profile that was not met when time ran out. Where samples were
    brought to one pace (:mod:`hwprune.measure.pace`), the pace beside each is kept, and the sweep's
    record has the reference: sample * pace / reference is what the clock said.
    """
    values = samples_of(parts)
    summary = summarise(values, passes=lengths_of(parts))
    missing = unmet(parts, profile, summary.relative_width)
    about: dict[str, Any] = {
        "passes": [
            {
                "samples": len(part.samples_ns),
                "number": part.number,
                "warmup": part.warmup,
                "elapsed_s": round(part.elapsed_s, 6),
                "cpu_share": None if part.cpu_share is None else round(part.cpu_share, 4),
                "pace_ns": [round(pace, 1) for pace in part.pace_ns],
            }
            for part in parts
        ],
        "unmet": missing,
        "outliers": list(summary.outliers),
    }
    note = _TIMEOUT + missing if missing else ""
    return _row(job, summary, unit, OK, note), Samples(tuple(values), about)


def unfinished(row: Row) -> bool:
    """Whether the sweep was cut off between a kernel's passes: the row can be used, and mended."""
    return row.note.startswith(_TIMEOUT) and row.note.endswith(PASSES)


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
