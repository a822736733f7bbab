"""Latency tables on disk, the writing side: one writer at a time, safe at every instant."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO

from hwprune.artifact import atomic_write_text, sha256_file, write_json
from hwprune.errors import MeasureError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.rows import Row, journal_line, read_journal, table_to_csv
from hwprune.latency.table import (
    CSV_NAME,
    JOURNAL_NAME,
    MANIFEST_KIND,
    MANIFEST_NAME,
    MANIFEST_VERSION,
    LatencyTable,
    TableManifest,
    read_manifest,
)

try:
    import fcntl
except ImportError:  # not a POSIX system: nobody keeps two sweeps apart there
    fcntl = None

LOCK_NAME = ".lock"
_log = logging.getLogger(__name__)


class TableWriter:
    """Adds rows to a table. Rows are safe on disk as soon as :meth:`append` returns.

    Parameters
    ----------
    directory
        Made if it is missing. An existing table is continued.
    manifest
        Provenance of the rows to come. It must agree with an existing table's.

    Raises
    ------
    MeasureError
        Another process writes this table, or the directory cannot be written.
    TableError
        The existing table is damaged, or of another pipeline, unit or device.
    """

    def __init__(self, directory: Path, manifest: TableManifest) -> None:
        self.directory = Path(directory)
        self._journal: IO[bytes] | None = None
        self._lock = _lock(self.directory)
        try:
            self._open(manifest)
        except BaseException:
            self._lock.close()
            raise

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(list(self._rows.values()))

    def get(self, spec: KernelSpec) -> Row | None:
        """The row of a kernel, whatever its status."""
        return self._rows.get(spec.digest())

    def append(self, row: Row) -> None:
        """Add a row, or replace the one of the same kernel."""
        if self._journal is None:
            self._journal = (self.directory / JOURNAL_NAME).open("ab", buffering=0)
        self._journal.write(journal_line(row))
        self._rows[row.digest] = row

    def compact(self) -> None:
        """Move the journal's rows into ``table.csv``.

        The order matters. The manifest names the new checksum beside the old one before
        ``table.csv`` is replaced, and the journal goes last: wherever this is cut off, the
        directory reads as a whole table.
        """
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        path, journal = self.directory / CSV_NAME, self.directory / JOURNAL_NAME
        if not journal.exists():
            return
        text = table_to_csv(self._rows.values())
        checksum = hashlib.sha256(text.encode()).hexdigest()
        # Not what the manifest says: after an earlier crash the file may be the next one already.
        now = self._manifest.model_copy(update={"sha256": sha256_file(path), "updated": timestamp()})
        self._write_manifest(now.model_copy(update={"next_sha256": checksum}))
        atomic_write_text(path, text)
        self._write_manifest(now.model_copy(update={"sha256": checksum, "next_sha256": None}))
        journal.unlink()

    def close(self) -> None:
        """Release the table; rows that were not compacted stay in the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._lock.close()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, manifest: TableManifest) -> None:
        if not (self.directory / MANIFEST_NAME).exists():
            text = table_to_csv([])
            (self.directory / JOURNAL_NAME).unlink(missing_ok=True)  # rows without provenance
            atomic_write_text(self.directory / CSV_NAME, text)
            checksum = hashlib.sha256(text.encode()).hexdigest()
            self._write_manifest(manifest.model_copy(update={"sha256": checksum}))
            self._rows: dict[str, Row] = {}
            return
        table = LatencyTable.load(
            self.directory,
            pipeline=manifest.pipeline,
            unit=manifest.unit,
            device=str(manifest.device["slug"]),
        )
        self._manifest = read_manifest(self.directory)
        self._rows = {row.digest: row for row in table}
        journal = self.directory / JOURNAL_NAME
        if journal.exists():
            # New rows must not be glued to the torn end of the last one.
            _, whole = read_journal(journal.read_bytes(), journal)
            os.truncate(journal, whole)

    def _write_manifest(self, manifest: TableManifest) -> None:
        path = self.directory / MANIFEST_NAME
        write_json(path, MANIFEST_KIND, MANIFEST_VERSION, manifest.model_dump(mode="json"))
        self._manifest = manifest


@contextlib.contextmanager
def writing(directory: Path) -> Generator[None]:
    """Be the only writer of a table's directory, which is made if it is missing.

    Raises
    ------
    MeasureError
        Another process writes there, or the directory cannot be made.
    """
    lock = _lock(Path(directory))
    try:
        yield
    finally:
        lock.close()


def timestamp() -> str:
    """Now, in UTC, to the second (ISO 8601)."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _lock(directory: Path) -> IO[str]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return _acquire(directory / LOCK_NAME)
    except OSError as error:
        raise MeasureError(
            f"latency table {directory} cannot be written: {error.strerror or error}",
            hint="choose another place with the environment variable HWPRUNE_TABLES",
        ) from error


def _acquire(path: Path) -> IO[str]:
    """Lock a file for as long as it stays open.

    The kernel drops the lock when the process ends, however it ends: there are no stale locks.
    """
    handle = path.open("a+")
    if fcntl is None:
        _log.warning("no file locks on this system: run one sweep at a time")
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.seek(0)
        owner = handle.read().strip()
        handle.close()
        raise MeasureError(
            f"latency table {path.parent} is being written by process {owner or 'unknown'}",
            hint="wait until that sweep ends, or stop it; what it has measured is kept",
        ) from error
    with contextlib.suppress(OSError):
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
    return handle
