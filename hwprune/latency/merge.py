"""Which rows and choices two latency tables of the same kind give when they are put together.

The row of a kernel is the trusted one; of two trusted rows the newer one, unless the caller prefers a
table. A search's choice (:mod:`hwprune.latency.choice`) goes before none. Where both tables were
searched and chose differently, nobody but the user can say which form will be built: that is refused,
unless a table is preferred. Rows that were timed in a form that loses are stale and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from hwprune.errors import PipelineMismatchError, TableError
from hwprune.latency.choice import ChoiceTable, Searched, choice_label
from hwprune.latency.manifest import MergeRecord, SweepRecord, TableManifest
from hwprune.latency.rows import OK, Row
from hwprune.latency.table import LatencyTable

Prefer = Literal["newest", "first", "second"]
PREFERENCES: dict[str, Prefer] = {name: name for name in get_args(Prefer)}
#: Kernels named in a refusal.
_NAMED = 5


def require_mergeable(first: LatencyTable, second: LatencyTable) -> None:
    """Refuse tables whose numbers mean different things.

    Raises
    ------
    PipelineMismatchError
        They were measured through different compile pipelines.
    TableError
        They differ in device, unit, kind or target.
    """
    different = first.manifest.differences(second.manifest)
    if not different:
        return
    kind = PipelineMismatchError if first.manifest.pipeline != second.manifest.pipeline else TableError
    raise kind(
        f"tables {first.directory} and {second.directory} cannot be merged: {'; '.join(different)}",
        hint="only tables of one pipeline, device, target, unit and kind hold numbers that can be compared",
    )


def merge_choices(first: ChoiceTable, second: ChoiceTable, prefer: Prefer) -> ChoiceTable:
    """The searched choices of both.

    Raises
    ------
    TableError
        Naming kernels for which both searches chose differently, and no table is preferred.
    """
    one, two = dict(first), dict(second)
    found: dict[str, Searched] = {**one, **two}
    conflicts: list[str] = []
    for digest in sorted(one.keys() & two.keys()):
        a, b = one[digest], two[digest]
        if choice_label(a.choice) == choice_label(b.choice):
            found[digest] = max(a, b, key=lambda entry: entry.measured_at)
        elif prefer == "newest":
            conflicts.append(f"{a.label}: {choice_label(a.choice)} and {choice_label(b.choice)}")
        else:
            found[digest] = a if prefer == "first" else b
    if conflicts:
        more = f" and {len(conflicts) - _NAMED} more" if len(conflicts) > _NAMED else ""
        raise TableError(
            f"the two searches chose different forms for {len(conflicts)} kernels: "
            + "; ".join(conflicts[:_NAMED])
            + more,
            hint="say whose choices are to hold with --prefer first or --prefer second",
        )
    provenance = {**second.provenance, **first.provenance}
    if first.provenance and second.provenance and first.provenance != second.provenance:
        provenance["merged_with"] = second.provenance
    return ChoiceTable(found, provenance)


def merge_rows(
    first: LatencyTable, second: LatencyTable, choices: ChoiceTable, prefer: Prefer
) -> Iterator[tuple[Row, int]]:
    """Rows by digest, each with the number of the table (0 or 1) it comes from.

    Both tables are read once, in order, and never held in memory as a whole.
    """
    for one, two in _pairs(first, second):
        rows = [
            (row, number)
            for number, row in enumerate((one, two))
            if row is not None and row.choice == choices.label(row.digest)
        ]
        if rows:
            yield max(rows, key=lambda r: _rank(r[0], r[1], prefer))


def merge_manifests(
    first: TableManifest, second: TableManifest, named: set[str], record: MergeRecord
) -> TableManifest:
    """Provenance of both; of sweeps only those that a row names. Checksums are for the writer."""
    newer = max(first, second, key=lambda manifest: manifest.updated)
    sweeps: dict[str, SweepRecord] = {}
    for sweep in (*first.sweeps, *second.sweeps):
        known = sweeps.get(sweep.id)
        # A table that was copied while a sweep ran knows less about it than the original.
        if sweep.id in named and (known is None or (known.ended or "") < (sweep.ended or "")):
            sweeps[sweep.id] = sweep
    merges = {(m.merged_at, m.sources): m for m in (*first.merges, *second.merges, record)}
    return newer.model_copy(
        update={
            "created": min(first.created, second.created),
            "updated": record.merged_at,
            "sweeps": tuple(sorted(sweeps.values(), key=lambda sweep: (sweep.started, sweep.id))),
            "merges": tuple(merges.values()),
            "sha256": "",
            "next_sha256": None,
            "samples": None,
            "next_samples": None,
        }
    )


def _pairs(first: LatencyTable, second: LatencyTable) -> Iterator[tuple[Row | None, Row | None]]:
    """The rows of each kernel in both tables, by digest."""
    ones, twos = iter(first), iter(second)
    one, two = next(ones, None), next(twos, None)
    while one is not None or two is not None:
        if two is None or (one is not None and one.digest < two.digest):
            yield one, None
            one = next(ones, None)
        elif one is None or two.digest < one.digest:
            yield None, two
            two = next(twos, None)
        else:
            yield one, two
            one, two = next(ones, None), next(twos, None)


def _rank(row: Row, number: int, prefer: Prefer) -> tuple[int, int, str, int]:
    """Larger wins: trusted, then timed at all, then the preferred table, then newer, then the first."""
    status = 2 if row.status == OK else 0 if row.failure is not None else 1
    preferred = prefer != "newest" and prefer == ("first", "second")[number]
    return status, int(preferred), row.measured_at, -number
