"""Latency tables on disk, the writing side: one writer at a time, safe at every instant."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from hwprune.artifact import atomic_write_chunks, sha256_file, write_json
from hwprune.errors import MeasureError, TableError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.manifest import (
    MANIFEST_KIND,
    MANIFEST_NAME,
    MANIFEST_VERSION,
    SweepRecord,
    TableManifest,
)
from hwprune.latency.rows import NO_SWEEP, Row, journal_line, read_journal
from hwprune.latency.samples import SAMPLES_NAME, SampleFile, Samples, encode, entries
from hwprune.latency.table import CSV_NAME, JOURNAL_NAME, LatencyTable
from hwprune.measure.compaction import csv_chunks, file_state, kept_records
from hwprune.measure.lock import take_lock

_log = logging.getLogger(__name__)


class TableWriter:
    """Adds the rows of one sweep to a table. A process that is killed loses no row it has appended.

    Parameters
    ----------
    directory
        Made if it is missing. An existing table is continued.
    manifest
        Provenance of the rows to come, with one sweep. It must agree with an existing table's.

    Raises
    ------
    MeasureError
        Another process writes this table, or the directory cannot be written.
    TableError
        The existing table is damaged, or of another pipeline, unit, kind, target or device.
    """

    def __init__(self, directory: Path, manifest: TableManifest) -> None:
        self.directory = Path(directory)
        (self._sweep,) = manifest.sweeps
        #: Whether the sweep is in the manifest: one that adds no row leaves no trace.
        self._begun = False
        self._files: dict[str, IO[bytes]] = {}
        self._lock = take_lock(self.directory)
        try:
            self._open(manifest)
        except BaseException:
            self._lock.close()
            raise

    def __len__(self) -> int:
        known = sum(self._table.by_digest(digest) is not None for digest in self._new)
        return len(self._table) + len(self._new) - known

    def __iter__(self) -> Iterator[Row]:
        rows = {row.digest: row for row in self._table}
        return iter([*(rows | self._new).values()])

    @property
    def sweep(self) -> SweepRecord:
        """The sweep whose rows are added."""
        return self._sweep

    def get(self, spec: KernelSpec) -> Row | None:
        """The row of a kernel, whatever its status."""
        digest = spec.digest()
        return self._new.get(digest) or self._table.by_digest(digest)

    def append(self, row: Row, samples: Samples | None = None) -> None:
        """Add a row, or replace the one of the same kernel.

        Parameters
        ----------
        row
            A row without a sweep becomes one of this sweep.
        samples
            The raw samples that its numbers were computed from. A row that is taken back or marked
            later keeps its samples; they need not be given again.

        Raises
        ------
        MeasureError
            It cannot be written. The table is whole without this row.
        TableError
            It is in another unit than the table.
        """
        if row.unit != self._manifest.unit:
            raise TableError(
                f"kernel '{row.label}' is in {row.unit}, table {self.directory} in {self._manifest.unit}",
                hint="measure in separate directories: numbers of different kinds are never mixed",
            )
        if row.sweep == NO_SWEEP:
            row = replace(row, sweep=self._sweep.id)
        if not self._begun:
            self._begun = True
            self._write_manifest(self._manifest.with_sweep(self._sweep))
        # Samples first: a record without a row is dropped later, a row without its record is a gap.
        if samples is not None:
            self._add(SAMPLES_NAME, encode(row, samples))
        self._add(JOURNAL_NAME, journal_line(row))
        self._new[row.digest] = row

    def identify(self, versions: Mapping[str, str | None]) -> None:
        """Add versions to the sweep's record, before its first row: some take a while to find out."""
        self._sweep = self._sweep.model_copy(update={"versions": {**self._sweep.versions, **versions}})

    def observe(self, conditions: Mapping[str, Any]) -> None:
        """Add to what is known about the machine during this sweep; later values replace earlier ones."""
        self._sweep = self._sweep.model_copy(update={"conditions": {**self._sweep.conditions, **conditions}})
        if self._begun:
            self._write_manifest(self._manifest.with_sweep(self._sweep))

    def compact(self) -> None:
        """Move the journal's rows into ``table.csv``, and drop samples of rows that were replaced.

        The order matters. The manifest names the new checksums beside the old ones before the files
        are replaced, and the journal goes last: wherever this is cut off, the directory reads as a
        whole table.
        """
        self._close_files()
        path, journal = self.directory / CSV_NAME, self.directory / JOURNAL_NAME
        if not journal.exists():
            return
        samples = SampleFile(self.directory)
        records = kept_records(samples, self._table, self._new)
        whole = memoryview(samples.data)[: samples.end]
        # Not what the manifest says: after an earlier crash the files may be the next ones already.
        now = self._swept().model_copy(
            update={"updated": timestamp(), "sha256": sha256_file(path), "samples": file_state([whole])}
        )
        checksum = file_state(csv_chunks(self._table, self._new)).sha256
        kept = file_state(records)
        self._write_manifest(now.model_copy(update={"next_sha256": checksum, "next_samples": kept}))
        if kept.size < samples.size:
            atomic_write_chunks(samples.path, records)
        atomic_write_chunks(path, csv_chunks(self._table, self._new))
        done = {"sha256": checksum, "samples": kept, "next_sha256": None, "next_samples": None}
        self._write_manifest(now.model_copy(update=done))
        journal.unlink()
        self._load()

    def close(self) -> None:
        """Release the table; rows that were not compacted stay in the journal."""
        self._close_files()
        self._lock.close()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, manifest: TableManifest) -> None:
        self._new: dict[str, Row] = {}
        for part in self.directory.glob(".*.tmp"):  # of a writer that was killed while it wrote a file
            part.unlink(missing_ok=True)
        if not (self.directory / MANIFEST_NAME).exists():
            for name in (JOURNAL_NAME, SAMPLES_NAME):  # rows without provenance
                (self.directory / name).unlink(missing_ok=True)
            self._table = LatencyTable(self.directory, manifest, [])
            atomic_write_chunks(self.directory / CSV_NAME, csv_chunks(self._table, {}))
            checksum = file_state(csv_chunks(self._table, {})).sha256
            self._write_manifest(manifest.model_copy(update={"sha256": checksum, "sweeps": ()}))
            self._load()
            return
        self._table = LatencyTable.load(
            self.directory,
            pipeline=manifest.pipeline,
            unit=manifest.unit,
            device=str(manifest.device["slug"]),
        )
        self._manifest = self._table.manifest
        different = self._manifest.differences(manifest)
        if different:
            raise TableError(
                f"table {self.directory} cannot be continued: {'; '.join(different)}",
                hint="measure into another directory: numbers of different kinds are never mixed",
            )
        self._mend()

    def _mend(self) -> None:
        """New rows must not be glued to the torn end of the last one."""
        journal = self.directory / JOURNAL_NAME
        if journal.exists():
            _, whole = read_journal(journal.read_bytes(), journal)
            os.truncate(journal, whole)
        samples, known = self.directory / SAMPLES_NAME, self._manifest.samples
        size = samples.stat().st_size if samples.exists() else 0
        if size:
            # What the manifest vouches for was whole, unless a compaction was cut off.
            first = known.size if known and self._manifest.next_samples is None else 0
            if size < first:
                raise TableError(
                    f"{samples} was truncated: {size} bytes of at least {first}",
                    hint="restore the file, or delete it to go on without the raw samples of earlier rows",
                )
            with samples.open("rb") as file:
                file.seek(first)
                tail = file.read()
            end = max((entry.end for entry in entries(tail, samples, bodies=True)), default=0)
            os.truncate(samples, first + end)
        elif known and known.size:
            _log.warning("the raw samples of table %s are gone; its statistics are kept", self.directory)

    def _load(self) -> None:
        """Read the table again: what was compacted need not stay in memory."""
        self._table = LatencyTable.load(self.directory, unit=self._manifest.unit)
        self._new = {}

    def _swept(self) -> TableManifest:
        """The manifest with this sweep ended, and without sweeps none of whose rows are left."""
        found = self._manifest
        if self._begun:
            self._sweep = self._sweep.model_copy(update={"ended": timestamp()})
            found = found.with_sweep(self._sweep)
        named = {row.sweep for row in self._new.values()} | self._table.sweeps(without=self._new)
        return found.model_copy(update={"sweeps": tuple(s for s in found.sweeps if s.id in named)})

    def _add(self, name: str, data: bytes) -> None:
        try:
            if name not in self._files:
                self._files[name] = (self.directory / name).open("ab", buffering=0)
            written = self._files[name].write(data)
        except OSError as error:
            raise MeasureError(
                f"{self.directory / name} cannot be written: {error.strerror or error}",
                hint="make room on the disk and run the same command again; what was measured is kept",
            ) from error
        if written != len(data):
            raise MeasureError(
                f"{self.directory / name} cannot be written: the disk is full",
                hint="make room and run the same command again; what was measured is kept",
            )

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _write_manifest(self, manifest: TableManifest) -> None:
        path = self.directory / MANIFEST_NAME
        write_json(path, MANIFEST_KIND, MANIFEST_VERSION, manifest.model_dump(mode="json"))
        self._manifest = manifest


def timestamp() -> str:
    """Now, in UTC, to the second (ISO 8601)."""
    return datetime.now(UTC).isoformat(timespec="seconds")
