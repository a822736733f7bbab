"""Latency tables on disk, the reading side. ``hwprune.measure`` writes them.

A table is a directory: ``table.csv`` (one kernel a line, sorted), ``manifest.json`` (where the
numbers come from, and the checksum of ``table.csv``) and, while a sweep runs or after it was cut
off, ``journal.csv`` (finished rows that are not in ``table.csv`` yet). Beside them may lie
``choices.json``; rows that were timed with other choices are left out when a table is read; and
``samples.bin``, the raw samples behind the rows (:mod:`hwprune.latency.samples`).
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from hwprune.errors import KernelMissError, PipelineMismatchError, TableError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.lines import Lines, read_buffer
from hwprune.latency.manifest import MANIFEST_NAME, TableManifest, read_manifest
from hwprune.latency.rows import OK, Row, read_journal

CSV_NAME = "table.csv"
JOURNAL_NAME = "journal.csv"


class LatencyTable:
    """Measured kernels, by digest. Make one with :meth:`load`."""

    def __init__(
        self, directory: Path, manifest: TableManifest, rows: Iterable[Row], lines: Lines | None = None
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.lines = lines
        #: Rows that are not in ``lines``, and those that somebody has asked for.
        self._rows = {row.digest: row for row in rows}
        self._extra = sorted(self._rows)

    @staticmethod
    def load(
        directory: Path,
        *,
        pipeline: str | None = None,
        unit: str = "ns",
        device: str | None = None,
        stale: bool = False,
    ) -> LatencyTable:
        """Read a table and refuse it where it does not fit.

        Parameters
        ----------
        directory
            The table's directory.
        pipeline
            Pipeline hash of the module that would ship; ``None`` skips the check.
        unit
            Unit the caller computes in.
        device
            Slug of the device it will run on; ``None`` skips the check.
        stale
            Also take rows of forms that ``choices.json`` has replaced: for looking, not for adding up.

        Raises
        ------
        TableError
            Missing, truncated or edited files, another or a mixed unit, the same kernel twice,
            or another device.
        PipelineMismatchError
            Measured through another compile pipeline.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        if pipeline is not None and manifest.pipeline != pipeline:
            raise PipelineMismatchError(
                f"table {directory} was measured through pipeline {manifest.pipeline}, "
                f"but the module would be compiled by pipeline {pipeline}",
                hint="measure again: hwprune profile --target " + str(manifest.target.get("name", "NAME")),
            )
        if manifest.unit != unit:
            raise TableError(
                f"table {directory} is in {manifest.unit} ({manifest.provenance}), {unit} was asked for",
                hint="numbers of different kinds are never mixed: use a table of one kind throughout",
            )
        slug = manifest.device.get("slug")
        if device is not None and slug != device:
            raise TableError(
                f"table {directory} was measured on {slug}, this device is {device}",
                hint="latencies do not carry over between devices: run hwprune profile on this one",
            )
        manifest, newer, lines = _read_files(directory, manifest)
        lines = lines.without(newer)
        if stale:
            return LatencyTable(directory, manifest, newer.values(), lines)
        choices = ChoiceTable.load(directory)
        current = [row for row in newer.values() if row.choice == choices.label(row.digest)]
        return LatencyTable(directory, manifest, current, lines.current(choices))

    def __len__(self) -> int:
        return len(self._extra) + (len(self.lines) if self.lines else 0)

    def __iter__(self) -> Iterator[Row]:
        """All rows by digest, parsed as they are asked for."""
        lines = () if self.lines is None else map(self.lines.row, range(len(self.lines)))
        return heapq.merge(lines, map(self._rows.__getitem__, self._extra), key=lambda row: row.digest)

    def get(self, spec: KernelSpec) -> Row | None:
        """The row of a kernel, whatever its status, or ``None``."""
        return self.by_digest(spec.digest())

    def by_digest(self, digest: str) -> Row | None:
        """The row of the kernel with a digest, or ``None``."""
        row = self._rows.get(digest)
        if row is None and self.lines is not None:
            place = self.lines.find(digest)
            if place is not None:
                row = self._rows[digest] = self.lines.row(place)
        return row

    def digests(self) -> set[str]:
        """Digests of all rows; parses nothing."""
        lines = [] if self.lines is None else self.lines.digests.tolist()
        return {*self._extra, *(digest.decode() for digest in lines)}

    @property
    def extra(self) -> list[Row]:
        """Rows that are not among ``lines``: those of the journal."""
        return [self._rows[digest] for digest in self._extra]

    def sweeps(self, *, without: Collection[str] = ()) -> set[str]:
        """Ids of the sweeps that rows name, those of the kernels ``without`` left out."""
        named = {row.sweep for row in self.extra if row.digest not in without}
        return named if self.lines is None else named | self.lines.without(without).sweeps()

    def lookup(self, spec: KernelSpec, *, untrusted: bool = False) -> Row:
        """The row of a kernel that can be relied on.

        Parameters
        ----------
        spec
            The kernel.
        untrusted
            Also take rows that were timed while the machine was disturbed.

        Raises
        ------
        KernelMissError
            Not in the table (with the nearest entries), failed, or untrusted.
        """
        row = self.get(spec)
        if row is None:
            near = [f"{r.label} ({r.median:.0f} {r.unit})" for r in self.nearest(spec)]
            raise KernelMissError(
                f"kernel '{spec.label()}' ({spec.digest()}) is not in table {self.directory}; "
                + (f"nearest: {'; '.join(near)}" if near else "no kernel has the same operators"),
                hint="add it with hwprune profile",
            )
        if row.failure is not None:
            raise KernelMissError(
                f"kernel '{row.label}' has no time in table {self.directory}: {row.failure}",
                hint="mend the cause and run hwprune profile again; failed kernels are tried anew",
            )
        if row.status != OK and not untrusted:
            raise KernelMissError(
                f"kernel '{row.label}' is untrusted in table {self.directory}: "
                "the machine was disturbed while it was timed",
                hint="run hwprune profile again on a quiet machine; only such kernels are timed anew",
            )
        return row

    def nearest(self, spec: KernelSpec, count: int = 3) -> list[Row]:
        """Timed rows with the same operators and the closest shapes, closest first."""
        found: list[tuple[float, str, Row]] = []
        for row in self.with_operators("+".join(op.kind for op in spec.ops)):
            distance = _distance(spec, row.kernel)
            if distance is not None:
                found.append((distance, row.digest, row))
        return [row for _, _, row in sorted(found, key=lambda f: f[:2])[:count]]

    def with_operators(self, chain: str) -> Iterator[Row]:
        """Timed rows of kernels with these operators, as labels name them (``conv2d+relu``)."""
        for row in self._mentioning(chain + " "):
            if row.failure is None and row.label.startswith(chain + " "):
                yield row

    def _mentioning(self, text: str) -> Iterator[Row]:
        """Rows in whose line a text occurs; the others are not parsed."""
        yield from (self._rows[digest] for digest in self._extra)
        if self.lines is not None:
            needle = text.encode()
            for place in range(len(self.lines)):
                if needle in self.lines.text(place):
                    yield self.lines.row(place)


def _read_files(directory: Path, manifest: TableManifest) -> tuple[TableManifest, dict[str, Row], Lines]:
    """The journal, then ``table.csv``: a writer moves rows from the one to the other."""
    path = directory / CSV_NAME
    while True:
        newer = {row.digest: row for row in _read_journal(directory, manifest)}
        try:
            data = read_buffer(path)
        except OSError as error:
            raise TableError(f"{path} cannot be read: {error}", hint="profile again") from error
        checksum = hashlib.sha256(data).hexdigest()
        if checksum in (manifest.sha256, manifest.next_sha256):
            return manifest, newer, Lines(data, path, manifest.unit)
        again = read_manifest(directory)
        if again == manifest:
            raise TableError(
                f"{path} is not the file that {MANIFEST_NAME} describes: it was truncated or edited",
                hint="restore both files together, or delete the directory and profile again",
            )
        manifest = again  # a writer has replaced both since we began


def _read_journal(directory: Path, manifest: TableManifest) -> list[Row]:
    path = directory / JOURNAL_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error}", hint="check its permissions") from error
    # A later line replaces an earlier one: that is how the profiler takes a row back.
    rows = read_journal(data, path)[0]
    for row in rows:
        if row.unit != manifest.unit:
            raise TableError(
                f"table {directory} mixes units: kernel '{row.label}' is in {row.unit}, "
                f"the table in {manifest.unit}",
                hint="measure in separate directories",
            )
    return rows


def _distance(one: KernelSpec, other: KernelSpec) -> float | None:
    """Sum of the log ratios of all dimensions; ``None`` where the ranks differ."""
    if [len(i.shape) for i in one.inputs] != [len(i.shape) for i in other.inputs]:
        return None
    pairs = (
        p for a, b in zip(one.inputs, other.inputs, strict=True) for p in zip(a.shape, b.shape, strict=True)
    )
    shapes = sum(abs(math.log(max(a, 1) / max(b, 1))) for a, b in pairs)
    # Another stride or padding is further away than any plausible change of width.
    return shapes + (100.0 if one.ops != other.ops else 0.0)
