"""Latency tables on disk, the reading side. ``hwprune.measure`` writes them.

A table is a directory: ``table.csv`` (one kernel a line, sorted), ``manifest.json`` (where the
numbers come from, and the checksum of ``table.csv``) and, while a sweep runs or after it was cut
off, ``journal.csv`` (finished rows that are not in ``table.csv`` yet). Beside them may lie
``choices.json``; rows that were timed with other choices are left out when a table is read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hwprune.artifact import read_json
from hwprune.errors import ArtifactError, KernelMissError, PipelineMismatchError, TableError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.rows import OK, Row, read_journal, table_from_csv

MANIFEST_KIND = "hwprune-latency-table"
MANIFEST_VERSION = 1
CSV_NAME = "table.csv"
MANIFEST_NAME = "manifest.json"
JOURNAL_NAME = "journal.csv"


class TableManifest(BaseModel):
    """Provenance of a table.

    ``sha256`` is that of ``table.csv``. While the two files are being replaced,
    ``next_sha256`` is the checksum of the new ``table.csv``, so that a crash between the two
    replacements leaves a table that still reads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: dict[str, Any]
    device: dict[str, Any]
    system: str
    versions: dict[str, str]
    pipeline: str
    unit: Literal["ns", "instructions", "cycles"]
    provenance: Literal["measured", "emulated", "simulated", "estimated"]
    seed: int
    created: str
    updated: str
    command: str
    git: str | None
    sha256: str
    next_sha256: str | None = None


class LatencyTable:
    """Measured kernels, by digest. Make one with :meth:`load`."""

    def __init__(self, directory: Path, manifest: TableManifest, rows: Iterable[Row]) -> None:
        self.directory = directory
        self.manifest = manifest
        self._rows = {row.digest: row for row in rows}

    @staticmethod
    def load(
        directory: Path, *, pipeline: str | None = None, unit: str = "ns", device: str | None = None
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
        choices = ChoiceTable.load(directory)
        rows = [
            row for row in _read_rows(directory, manifest).values() if row.choice == choices.label(row.digest)
        ]
        return LatencyTable(directory, manifest, rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows[digest] for digest in sorted(self._rows))

    def get(self, spec: KernelSpec) -> Row | None:
        """The row of a kernel, whatever its status, or ``None``."""
        return self._rows.get(spec.digest())

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
        chain = "+".join(op.kind for op in spec.ops) + " "
        found: list[tuple[float, str, Row]] = []
        for row in self._rows.values():
            if row.failure is None and row.label.startswith(chain):
                distance = _distance(spec, row.kernel)
                if distance is not None:
                    found.append((distance, row.digest, row))
        return [row for _, _, row in sorted(found, key=lambda f: f[:2])[:count]]


def read_manifest(directory: Path) -> TableManifest:
    """The manifest of a table.

    Raises
    ------
    TableError
        No table there, or its manifest is damaged.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise TableError(f"no latency table at {directory}", hint="measure one: hwprune profile --help")
    try:
        return TableManifest.model_validate(read_json(path, MANIFEST_KIND, MANIFEST_VERSION))
    except ArtifactError as error:
        raise TableError(error.message, hint=error.hint) from error
    except ValidationError as error:
        raise TableError(f"{path}: {error}", hint="written by another version: profile again") from error


def _read_rows(directory: Path, manifest: TableManifest) -> dict[str, Row]:
    path = directory / CSV_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error}", hint="profile again") from error
    checksum = hashlib.sha256(data).hexdigest()
    if checksum not in (manifest.sha256, manifest.next_sha256):
        raise TableError(
            f"{path} is not the file that {MANIFEST_NAME} describes: it was truncated or edited",
            hint="restore both files together, or delete the directory and profile again",
        )
    rows: dict[str, Row] = {}
    for row in table_from_csv(data.decode(), path):
        if row.digest in rows:
            raise TableError(f"{path} has kernel {row.digest} ({row.label}) twice", hint="profile again")
        rows[row.digest] = row
    journal = directory / JOURNAL_NAME
    if journal.is_file():
        # A later line replaces an earlier one: that is how the profiler takes a row back.
        rows.update((row.digest, row) for row in read_journal(journal.read_bytes(), journal)[0])
    for row in rows.values():
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
