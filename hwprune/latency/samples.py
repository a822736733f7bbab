"""Raw samples of a latency table's rows: ``samples.bin`` beside ``table.csv``.

The file only grows while a sweep runs. One record a timed kernel: a header (marker, length of the
body, digest of the kernel, key of the row, CRC-32 of these), the body, CRC-32 of the body. The body
is compressed: a line of JSON, then the samples as float64, the first bytes of all numbers first, then
the second bytes and so on, which compresses better. A writer that is killed leaves at most its last
record cut short.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.errors import TableError
from hwprune.latency.lines import Buffer, read_buffer
from hwprune.latency.rows import Row

SAMPLES_NAME = "samples.bin"
_MARKER = b"HWS1"
_FIELDS = struct.Struct("<4sI16s8s")
_CRC = struct.Struct("<I")
_HEADER = _FIELDS.size + _CRC.size
_LEVEL = 6


@dataclass(frozen=True)
class Samples:
    """Raw samples of one row.

    Attributes
    ----------
    values
        Per kernel call, in the row's unit, in the order in which they were taken.
    about
        How they were taken, JSON values: runs behind each sample, warm-up, outliers, conditions.
    """

    values: tuple[float, ...]
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Entry:
    """Where a record lies: ``start`` to ``end``, and which row it belongs to."""

    digest: str
    key: bytes
    start: int
    end: int


def row_key(row: Row) -> bytes:
    """Eight bytes that tie a record to one timing of a kernel, whatever the row is called later."""
    text = f"{row.digest} {row.choice} {row.measured_at} {row.median!r}"
    return hashlib.sha256(text.encode()).digest()[:8]


def encode(row: Row, samples: Samples) -> bytes:
    """The record of a row."""
    about = json.dumps(dict(samples.about), separators=(",", ":"), sort_keys=True).encode()
    numbers = np.asarray(samples.values, dtype="<f8").view(np.uint8).reshape(-1, 8)
    body = zlib.compress(about + b"\n" + numbers.T.tobytes(), _LEVEL)
    fields = _FIELDS.pack(_MARKER, len(body), row.digest.encode("ascii"), row_key(row))
    return fields + _CRC.pack(zlib.crc32(fields)) + body + _CRC.pack(zlib.crc32(body))


def decode(data: Buffer, entry: Entry, where: Path) -> Samples:
    """The samples of a record.

    Raises
    ------
    TableError
        Its bytes were changed.
    """
    body = data[entry.start + _HEADER : entry.end - _CRC.size]
    if _CRC.pack(zlib.crc32(body)) != data[entry.end - _CRC.size : entry.end]:
        raise _damaged(where, entry.start)
    about, _, raw = zlib.decompress(body).partition(b"\n")
    numbers = np.frombuffer(raw, dtype=np.uint8).reshape(8, -1).T
    return Samples(tuple(np.ascontiguousarray(numbers).view("<f8").ravel().tolist()), json.loads(about))


def entries(data: Buffer, where: Path, start: int = 0, *, bodies: bool = False) -> Iterator[Entry]:
    """Records from ``start`` on; the last one, if it is cut short, is left out.

    Parameters
    ----------
    bodies
        Also check the bodies, not only the headers.

    Raises
    ------
    TableError
        A record is damaged in a way that a killed writer does not cause.
    """
    size = len(data)
    while start + _HEADER <= size:
        fields = data[start : start + _FIELDS.size]
        marker, length, digest, key = _FIELDS.unpack(fields)
        if marker != _MARKER or data[start + _FIELDS.size : start + _HEADER] != _CRC.pack(zlib.crc32(fields)):
            raise _damaged(where, start)
        end = start + _HEADER + length + _CRC.size
        if end > size:
            return
        entry = Entry(digest.decode("ascii"), key, start, end)
        if bodies:
            decode(data, entry, where)
        yield entry
        start = end


class SampleFile:
    """The raw samples of a table, by row. Opening it reads no samples.

    Raises
    ------
    TableError
        The file is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.path = Path(directory) / SAMPLES_NAME
        self.data = _read(self.path)
        #: All whole records in the order of the file, earlier timings included.
        self.entries = list(entries(self.data, self.path))
        self._places = {(e.digest, e.key): e for e in self.entries}

    @property
    def size(self) -> int:
        """Bytes of the file, a last record cut short included."""
        return len(self.data)

    @property
    def end(self) -> int:
        """Where the last whole record ends, in bytes."""
        return self.entries[-1].end if self.entries else 0

    def entry(self, row: Row) -> Entry | None:
        """Where the samples behind a row lie."""
        return self._places.get((row.digest, row_key(row)))

    def of(self, row: Row) -> Samples | None:
        """The samples behind a row; None where none were kept.

        Raises
        ------
        TableError
            They were damaged.
        """
        entry = self.entry(row)
        return None if entry is None else decode(self.data, entry, self.path)


def _read(path: Path) -> Buffer:
    try:
        return read_buffer(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error}", hint="check its permissions") from error


def _damaged(where: Path, start: int) -> TableError:
    return TableError(
        f"{where} is damaged at byte {start}",
        hint="restore the file, or delete it: the table keeps its statistics and loses the raw samples",
    )
