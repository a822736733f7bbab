"""Writes the merge of two latency tables: a new directory, or one of the two, replaced at once."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from hwprune.artifact import atomic_directory, write_json
from hwprune.errors import TableError
from hwprune.latency.choice import CHOICES_NAME, ChoiceTable
from hwprune.latency.location import is_shipped
from hwprune.latency.manifest import (
    MANIFEST_KIND,
    MANIFEST_NAME,
    MANIFEST_VERSION,
    FileState,
    MergeRecord,
    read_manifest,
)
from hwprune.latency.merge import Prefer, merge_choices, merge_manifests, merge_rows, require_mergeable
from hwprune.latency.rows import row_to_csv, table_to_csv
from hwprune.latency.samples import SAMPLES_NAME, SampleFile
from hwprune.latency.table import CSV_NAME, JOURNAL_NAME, LatencyTable
from hwprune.latency.traces import TRACES_NAME
from hwprune.measure.lock import LOCK_NAME, writing
from hwprune.measure.provenance import command_line
from hwprune.measure.table_writer import timestamp

_OURS = (CSV_NAME, MANIFEST_NAME, JOURNAL_NAME, SAMPLES_NAME, CHOICES_NAME, TRACES_NAME, LOCK_NAME)


@dataclass
class MergeReport:
    """What a merge did: rows in all, and how many of them come from each table.

    ``left_out`` are the rows of each table that lost, or were timed in a form that lost.
    """

    directory: Path
    rows: int = 0
    taken: list[int] = field(default_factory=lambda: [0, 0])
    left_out: list[int] = field(default_factory=lambda: [0, 0])
    records: int = 0


def merge_tables(first: Path, second: Path, into: Path, *, prefer: Prefer = "newest") -> MergeReport:
    """Put two tables together.

    Parameters
    ----------
    first, second
        Tables of one pipeline, device, target, unit and kind.
    into
        A new directory, or one of the two. It changes only when everything is written.
    prefer
        Whose rows and choices go before the other's; ``newest`` takes the newer row of each kernel.

    Raises
    ------
    TableError
        A table is damaged, they do not belong together, their choices contradict each other, or
        ``into`` is a third table.
    MeasureError
        ``into`` is being written by another process.
    ArtifactError
        ``into`` cannot be written.
    """
    sources = (Path(first), Path(second))
    into = Path(into)
    with ExitStack() as stack:
        if into.exists() or is_shipped(into):
            if into.resolve() not in [source.resolve() for source in sources]:
                raise TableError(
                    f"{into} exists and is neither of the two tables, so it is not replaced",
                    hint="choose a directory that does not exist, or merge into one of the two",
                )
            stack.enter_context(writing(into))
        one, two = (LatencyTable.load(source, unit=_unit(source)) for source in sources)
        require_mergeable(one, two)
        choices = merge_choices(ChoiceTable.load(sources[0]), ChoiceTable.load(sources[1]), prefer)
        scratch = stack.enter_context(atomic_directory(into, MANIFEST_NAME))
        # What else lies beside the tables, such as trials of tuning: of files of one name into's own
        # or, in a new directory, the first's are kept.
        for source in (*reversed(sources), *([into] if into.is_dir() else [])):
            shutil.copytree(source, scratch, dirs_exist_ok=True, ignore=_ignored)
        return _write(scratch, into, (one, two), choices, prefer)


def _write(
    scratch: Path,
    into: Path,
    tables: tuple[LatencyTable, LatencyTable],
    choices: ChoiceTable,
    prefer: Prefer,
) -> MergeReport:
    report = MergeReport(into)
    if len(choices):
        choices.save(scratch)
    samples = tuple(SampleFile(table.directory) for table in tables)
    named: set[str] = set()
    lines, records = _Growing(scratch / CSV_NAME), _Growing(scratch / SAMPLES_NAME)
    with lines, records:
        lines.add(table_to_csv([]).encode())
        for row, number in merge_rows(*tables, choices, prefer):
            report.rows += 1
            report.taken[number] += 1
            named.add(row.sweep)
            lines.add(row_to_csv(row).encode() + b"\n")
            entry = samples[number].entry(row)
            if entry is not None:
                report.records += 1
                records.add(bytes(samples[number].data[entry.start : entry.end]))
    report.left_out = [len(table) - taken for table, taken in zip(tables, report.taken, strict=True)]
    record = MergeRecord(
        merged_at=timestamp(),
        command=command_line(),
        sources=(tables[0].manifest.sha256, tables[1].manifest.sha256),
    )
    manifest = merge_manifests(tables[0].manifest, tables[1].manifest, named, record)
    manifest = manifest.model_copy(update={"sha256": lines.state.sha256, "samples": records.state})
    write_json(scratch / MANIFEST_NAME, MANIFEST_KIND, MANIFEST_VERSION, manifest.model_dump(mode="json"))
    return report


class _Growing:
    """A file that is written once, in pieces, and hashed meanwhile."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest, self._size = hashlib.sha256(), 0

    @property
    def state(self) -> FileState:
        return FileState(size=self._size, sha256=self._digest.hexdigest())

    def add(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def __enter__(self) -> _Growing:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _unit(directory: Path) -> str:
    return read_manifest(directory).unit


def _ignored(_: str, names: list[str]) -> set[str]:
    """Files that are written anew, and what a sweep that was killed has left."""
    return {name for name in names if name in _OURS or name.startswith(".")}
