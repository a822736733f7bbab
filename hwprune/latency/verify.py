"""Checks everything about a latency table that can be checked without measuring again."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hwprune.errors import TableError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.manifest import MANIFEST_NAME, TableManifest, read_manifest
from hwprune.latency.rows import FAILED_PREFIX, OK, UNTRUSTED, Row
from hwprune.latency.samples import SampleFile, entries
from hwprune.latency.table import LatencyTable

#: Statistics are computed again from the samples: only the order of additions may differ.
_TOLERANCE = 1e-9
#: Problems of one kind that are listed one by one.
_LISTED = 20


@dataclass
class Verification:
    """What a check has found.

    ``problems`` mean that the table must not be relied on. ``remarks`` are worth knowing and no
    fault: a sweep that was cut off, rows whose raw samples were not kept.
    """

    directory: Path
    rows: int = 0
    stale: int = 0
    rows_with_samples: int = 0
    sample_records: int = 0
    problems: list[str] = field(default_factory=list[str])
    remarks: list[str] = field(default_factory=list[str])

    @property
    def good(self) -> bool:
        """Whether there are no problems."""
        return not self.problems


def verify(directory: Path) -> Verification:
    """Check a table: checksums, order, units, every row against its spec, sweep and raw samples.

    Nothing is raised: whatever is wrong is listed, as far as the rest can still be checked. A sweep
    may be writing the table meanwhile.
    """
    before = _manifest_bytes(directory)
    while True:
        found = _verify(Path(directory))
        now = _manifest_bytes(directory)
        if found.good or now == before:
            return found
        before = now  # files were replaced while they were compared with each other


def _manifest_bytes(directory: Path) -> bytes | None:
    try:
        return (Path(directory) / MANIFEST_NAME).read_bytes()
    except OSError:
        return None


def _verify(directory: Path) -> Verification:
    found = Verification(directory)
    try:
        manifest = read_manifest(found.directory)
        table = LatencyTable.load(found.directory, unit=manifest.unit, stale=True)
    except TableError as error:
        found.problems.append(error.message)
        return found
    problems = _Listing(found.problems)
    try:
        choices = ChoiceTable.load(found.directory)
    except TableError as error:
        found.problems.append(error.message)
        choices = ChoiceTable()
    samples = _samples(found, table.manifest)
    sweeps = {sweep.id for sweep in table.manifest.sweeps}
    timed_again = {row.digest for row in table.extra}
    # Compaction leaves records of the rows that stay; behind them may be one whose row is on its way.
    state = None if table.manifest.next_samples else table.manifest.samples
    compacted = {e.digest for e in samples.entries if state and e.end <= state.size} if samples else ()
    without = 0
    try:
        for row in table:
            found.rows += 1
            found.stale += row.choice != choices.label(row.digest)
            problems.add("row", row.label, _row_problem(row, sweeps))
            entry = samples.entry(row) if samples else None
            if samples and entry:
                found.rows_with_samples += 1
                problems.add("samples", row.label, _samples_problem(row, samples))
            elif row.failure is None:
                without += 1
                if row.digest in compacted and row.digest not in timed_again:
                    problems.add("samples", row.label, "those that are kept are of another timing")
    except TableError as error:
        found.problems.append(error.message)
    problems.close()
    if without:
        found.remarks.append(f"{without} timed rows have no raw samples")
    if found.stale:
        found.remarks.append(f"{found.stale} rows were timed in forms that choices.json has replaced")
    cut = [sweep for sweep in table.manifest.sweeps if sweep.ended is None]
    found.remarks += [f"sweep {s.id} of {s.started} was cut off or is still running" for s in cut]
    return found


class _Listing:
    """Problems by kind; of each kind the first ones, then how many more there are."""

    def __init__(self, problems: list[str]) -> None:
        self._problems, self._counts = problems, Counter[str]()

    def add(self, kind: str, label: str, problem: str | None) -> None:
        if problem is not None:
            self._counts[kind] += 1
            if self._counts[kind] <= _LISTED:
                self._problems.append(f"{kind} of '{label}': {problem}")

    def close(self) -> None:
        for kind, count in self._counts.items():
            if count > _LISTED:
                self._problems.append(f"{count - _LISTED} more problems of this kind: {kind}")


def _row_problem(row: Row, sweeps: set[str]) -> str | None:
    try:
        spec = KernelSpec.parse(row.spec)
        canonical, digest, label = spec.canonical(), spec.digest(), spec.label()
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return f"its spec cannot be read: {error!r}"
    if canonical != row.spec:
        return "its spec is not in canonical form"
    if digest != row.digest:
        return f"its spec has digest {digest}, the row says {row.digest}"
    if label != row.label:
        return f"its spec is '{label}'"
    if row.sweep not in sweeps:
        return f"the manifest has no sweep {row.sweep}"
    numbers = (row.median, row.ci_low, row.ci_high, row.minimum, row.mean)
    if row.status not in (OK, UNTRUSTED) and not row.status.startswith(FAILED_PREFIX):
        return f"unknown status '{row.status}'"
    if row.failure is not None:
        return "it failed and has a time all the same" if any(numbers) else None
    if not all(math.isfinite(n) and n > 0 for n in numbers) or row.samples < 1:
        return "a statistic is not a positive number"
    if row.minimum > row.median or row.ci_low > row.ci_high:
        return "its statistics contradict each other"
    return None


def _samples_problem(row: Row, samples: SampleFile) -> str | None:
    try:
        kept = samples.of(row)
    except TableError as error:
        return error.message
    assert kept is not None
    values = np.array(kept.values)
    if len(values) != row.samples:
        return f"{len(values)} are kept, the row says {row.samples}"
    again = {"median": np.median(values), "minimum": values.min(), "mean": values.mean()}
    for name, value in again.items():
        stated = getattr(row, name)
        if not math.isclose(value, stated, rel_tol=_TOLERANCE):
            return f"their {name} is {value:.6g}, the row says {stated:.6g}"
    return None


def _samples(found: Verification, manifest: TableManifest) -> SampleFile | None:
    """The samples' file, if it is whole: its records, and the part that the manifest vouches for."""
    try:
        samples = SampleFile(found.directory)
        found.sample_records = sum(1 for _ in entries(samples.data, samples.path, bodies=True))
    except TableError as error:
        found.problems.append(error.message)
        return None
    states = [state for state in (manifest.samples, manifest.next_samples) if state is not None]
    data = memoryview(samples.data)
    if states and not any(
        state.size <= samples.size and hashlib.sha256(data[: state.size]).hexdigest() == state.sha256
        for state in states
    ):
        found.problems.append(f"{samples.path} is not the file that the manifest describes")
    return samples
