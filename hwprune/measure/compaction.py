"""What the files of a table become when its new rows are moved into them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from hwprune.latency.manifest import FileState
from hwprune.latency.rows import Row, row_to_csv, table_to_csv
from hwprune.latency.samples import Entry, SampleFile
from hwprune.latency.table import LatencyTable

Buffer = bytes | memoryview


def csv_chunks(table: LatencyTable, newer: Mapping[str, Row]) -> Iterator[bytes]:
    """The text of ``table.csv`` with ``newer`` rows in place of those of the same kernels.

    Lines that stay are copied, not parsed.
    """
    extra = {**{row.digest: row for row in table.extra}, **newer}
    yield table_to_csv([]).encode()
    digests = sorted(extra)
    pieces: Iterable[bytes] = [b""] * (len(digests) + 1)
    if table.lines is not None:
        pieces = table.lines.without(extra).runs(digests)
    for number, piece in enumerate(pieces):
        yield piece
        if number < len(digests):
            yield row_to_csv(extra[digests[number]]).encode() + b"\n"


def kept_records(samples: SampleFile, table: LatencyTable, newer: Mapping[str, Row]) -> list[memoryview]:
    """The records of raw samples that belong to a row of the table, in the order of the file."""
    counts = Counter(entry.digest for entry in samples.entries)
    known = table.digests()

    def belongs(entry: Entry) -> bool:
        if counts[entry.digest] == 1 and entry.digest not in newer:
            return entry.digest in known  # timed once: there is nothing to choose from
        row = newer.get(entry.digest) or table.by_digest(entry.digest)
        return row is not None and samples.entry(row) == entry

    data, runs = memoryview(samples.data), list[tuple[int, int]]()
    for entry in samples.entries:
        if belongs(entry):
            begin = runs.pop()[0] if runs and runs[-1][1] == entry.start else entry.start
            runs.append((begin, entry.end))
    return [data[begin:end] for begin, end in runs]


def file_state(chunks: Iterable[Buffer]) -> FileState:
    """Size and checksum of a file that consists of these chunks."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return FileState(size=size, sha256=digest.hexdigest())
