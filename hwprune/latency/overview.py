"""What a latency table holds, at a glance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hwprune.latency.rows import FAILED_PREFIX, Row
from hwprune.latency.table import LatencyTable


@dataclass
class SweepRows:
    """How many rows of a sweep are left in the table, by status."""

    ok: int = 0
    untrusted: int = 0
    failed: int = 0


@dataclass
class Overview:
    """Counts over a table.

    Attributes
    ----------
    statuses
        Rows by status; all failures are one status.
    families
        Rows by their chain of operators.
    forms
        Rows by the algorithm they were built with.
    oldest, newest
        When rows were timed, UTC; empty for an empty table.
    best, worst
        The timed rows with the narrowest and the widest confidence interval.
    failures
        Label and reason of failed kernels.
    sweeps
        By id.
    """

    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter[str])
    families: Counter[str] = field(default_factory=Counter[str])
    forms: Counter[str] = field(default_factory=Counter[str])
    oldest: str = ""
    newest: str = ""
    best: Row | None = None
    worst: Row | None = None
    failures: dict[str, str] = field(default_factory=dict[str, str])
    sweeps: dict[str, SweepRows] = field(default_factory=dict[str, SweepRows])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rows": self.rows,
            "statuses": dict(self.statuses),
            "families": dict(self.families.most_common()),
            "forms": dict(self.forms.most_common()),
            "oldest": self.oldest,
            "newest": self.newest,
            "best_interval": _interval(self.best),
            "worst_interval": _interval(self.worst),
            "failures": self.failures,
            "sweeps": {name: vars(rows) for name, rows in self.sweeps.items()},
        }


def relative_width(row: Row) -> float:
    """Width of a row's confidence interval over its median."""
    return (row.ci_high - row.ci_low) / row.median


def overview(table: LatencyTable) -> Overview:
    """Read every row of a table once."""
    found = Overview()
    for row in table:
        found.rows += 1
        status = FAILED_PREFIX.rstrip(":") if row.failure is not None else row.status
        found.statuses[status] += 1
        found.families[row.label.partition(" ")[0]] += 1
        found.forms[row.choice.partition(" ")[0]] += 1
        counts = found.sweeps.setdefault(row.sweep, SweepRows())
        setattr(counts, status, getattr(counts, status, 0) + 1)
        found.newest = max(found.newest, row.measured_at)
        found.oldest = min(found.oldest or row.measured_at, row.measured_at)
        if row.failure is not None:
            found.failures[row.label] = row.failure
        elif row.median > 0:
            width = relative_width(row)
            if found.best is None or width < relative_width(found.best):
                found.best = row
            if found.worst is None or width > relative_width(found.worst):
                found.worst = row
    return found


def _interval(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {"label": row.label, "median": row.median, "unit": row.unit, "relative_width": relative_width(row)}
