"""Tables of made-up rows with raw samples that agree with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hwprune.latency.kernel import KernelSpec
from hwprune.latency.manifest import SweepRecord, TableManifest
from hwprune.latency.rows import Row
from hwprune.latency.samples import Samples
from hwprune.measure.table_writer import TableWriter
from tests.measure.fakes import TARGET

SWEEP = SweepRecord(
    id="0a0a0a0a",
    command="hwprune profile",
    git=None,
    versions={"numpy": "2", "driver": None},
    seed=0,
    profile={"name": "quick"},
    started="2026-01-01T00:00:00+00:00",
)
MANIFEST = TableManifest(
    target=TARGET.model_dump(mode="json"),
    target_string="llvm",
    device={"slug": "some-cpu-2c", "cpu": "Some CPU"},
    system="Linux",
    pipeline="0123456789ab",
    unit="ns",
    provenance="measured",
    created="2026-01-01T00:00:00+00:00",
    updated="2026-01-01T00:00:00+00:00",
    sweeps=(SWEEP,),
)

Timed = tuple[Row, Samples | None]


def sweep(number: int) -> TableManifest:
    """The manifest for another sweep of the same kind of table."""
    started = f"2026-01-{number + 1:02d}T00:00:00+00:00"
    other = SWEEP.model_copy(update={"id": f"{number:08x}", "started": started, "command": f"sweep {number}"})
    return MANIFEST.model_copy(update={"sweeps": (other,), "created": started})


def timed(spec: KernelSpec, median: float = 1234.5678, day: int = 1, **changes: object) -> Timed:
    """A row and eleven samples whose statistics it states."""
    values = median * np.array([0.99, 0.98, 1.01, 1.0, 1.2, 0.97, 1.02, 1.003, 0.995, 1.5, 0.985])
    row = Row(
        digest=spec.digest(),
        label=spec.label(),
        spec=spec.canonical(),
        unit="ns",
        median=float(np.median(values)),
        ci_low=float(0.985 * median),
        ci_high=float(1.02 * median),
        minimum=float(values.min()),
        mean=float(values.mean()),
        samples=len(values),
        status="ok",
        copies=12,
        measured_at=f"2026-01-{day:02d}T12:00:00+00:00",
    )
    return replace(row, **changes), Samples(tuple(values.tolist()), {"number": 3, "outliers": [9]})


def failed(spec: KernelSpec, reason: str = "crash", day: int = 1) -> Timed:
    none = {"median": 0.0, "ci_low": 0.0, "ci_high": 0.0, "minimum": 0.0, "mean": 0.0, "samples": 0}
    return timed(spec, day=day, status=f"failed:{reason}", **none)[0], None


def write(
    directory: Path, rows: Sequence[Timed], manifest: TableManifest = MANIFEST, *, compact: bool = True
) -> Path:
    with TableWriter(directory, manifest) as writer:
        for row, samples in rows:
            writer.append(row, samples)
        if compact:
            writer.compact()
    return directory
