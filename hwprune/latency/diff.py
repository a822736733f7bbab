"""What distinguishes two latency tables: kernels only one of them has, and how the others differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hwprune.errors import TableError
from hwprune.latency.rows import OK, Row
from hwprune.latency.table import LatencyTable


@dataclass(frozen=True)
class Difference:
    """One kernel in both tables; ``relative`` is the second median over the first, less one.

    ``beyond_both`` says that each median lies outside the other's confidence interval.
    """

    digest: str
    label: str
    first: float
    second: float
    relative: float
    beyond_both: bool


@dataclass(frozen=True)
class TableDiff:
    """Two tables compared.

    Attributes
    ----------
    rows_first, rows_second
        Rows of each.
    only_first, only_second
        Labels by digest of the kernels that the other lacks.
    different
        What else distinguishes the tables: device, pipeline, target, kind.
    untrusted, failed, other_choice
        Common kernels that were not compared: one of the rows was timed while the machine was
        disturbed, has no time, or belongs to another form of the kernel.
    compared
        By digest.
    """

    rows_first: int
    rows_second: int
    only_first: dict[str, str]
    only_second: dict[str, str]
    different: list[str]
    untrusted: int
    failed: int
    other_choice: int
    compared: list[Difference] = field(default_factory=list[Difference])

    def summary(self) -> dict[str, Any]:
        """Counts, and the distribution of the relative differences (None where nothing is common)."""
        relative = np.array([d.relative for d in self.compared])
        beyond = sum(d.beyond_both for d in self.compared)
        known = len(relative) > 0
        low, middle, high = np.quantile(relative, [0.05, 0.5, 0.95]) if known else (0.0, 0.0, 0.0)
        return {
            "rows_first": self.rows_first,
            "rows_second": self.rows_second,
            "only_first": len(self.only_first),
            "only_second": len(self.only_second),
            "compared": len(relative),
            "untrusted": self.untrusted,
            "failed": self.failed,
            "other_choice": self.other_choice,
            "median": float(middle) if known else None,
            "p5": float(low) if known else None,
            "p95": float(high) if known else None,
            "median_abs": float(np.median(np.abs(relative))) if known else None,
            "max_abs": float(np.max(np.abs(relative))) if known else None,
            "beyond_both": beyond,
            "beyond_both_share": beyond / len(relative) if known else None,
        }

    def largest(self, count: int) -> list[Difference]:
        """The kernels that differ most, most first."""
        return sorted(self.compared, key=lambda d: (-abs(d.relative), d.digest))[:count]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the summary, and what it is made of."""
        return {
            "summary": self.summary(),
            "different": self.different,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "compared": [asdict(d) for d in self.compared],
        }


def diff(first: LatencyTable, second: LatencyTable, *, untrusted: bool = False) -> TableDiff:
    """Compare two tables kernel by kernel.

    Parameters
    ----------
    untrusted
        Also compare rows that were timed while the machine was disturbed.

    Raises
    ------
    TableError
        Their numbers have different units.
    """
    if first.manifest.unit != second.manifest.unit:
        raise TableError(
            f"table {first.directory} is in {first.manifest.unit}, {second.directory} in"
            f" {second.manifest.unit}: their numbers cannot be compared",
            hint="compare tables of one unit",
        )
    others = {row.digest: row for row in second}
    only_first: dict[str, str] = {}
    left_out = {"untrusted": 0, "failed": 0, "other_choice": 0}
    compared: list[Difference] = []
    for one in first:
        two = others.pop(one.digest, None)
        if two is None:
            only_first[one.digest] = one.label
            continue
        reason = _incomparable(one, two, untrusted)
        if reason is None:
            compared.append(_difference(one, two))
        else:
            left_out[reason] += 1
    return TableDiff(
        rows_first=len(first),
        rows_second=len(second),
        only_first=only_first,
        only_second={digest: row.label for digest, row in others.items()},
        different=first.manifest.differences(second.manifest),
        compared=compared,
        **left_out,
    )


def _incomparable(one: Row, two: Row, untrusted: bool) -> str | None:
    if not (one.median > 0 and two.median > 0):  # failed rows have no time
        return "failed"
    if one.choice != two.choice:
        return "other_choice"
    if not untrusted and not one.status == two.status == OK:
        return "untrusted"
    return None


def _difference(one: Row, two: Row) -> Difference:
    outside = not one.ci_low <= two.median <= one.ci_high and not two.ci_low <= one.median <= two.ci_high
    return Difference(one.digest, one.label, one.median, two.median, two.median / one.median - 1.0, outside)
