"""Rows of a latency table from what a device has measured."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hwprune.artifact import sha256_file
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.location import relative_directory, tables_root
from hwprune.latency.manifest import SweepRecord, TableManifest
from hwprune.latency.rows import FAILED_PREFIX, OK, UNTRUSTED, Row, one_line
from hwprune.latency.samples import Samples
from hwprune.measure.carry.bundle import PackedKernel, Unbuilt
from hwprune.measure.carry.networks import CarriedNetwork, CarriedNetworks
from hwprune.measure.carry.results import Carried, KernelResult, SampledResult
from hwprune.measure.provenance import new_manifest
from hwprune.measure.stats import summarise
from hwprune.measure.table_writer import TableWriter

#: What the numbers of a carried bundle are; the script on the device can take no others.
UNIT, KIND, RUNNER = "ns", "measured", "carry"


@dataclass
class ReadReport:
    """What was read.

    ``kept`` counts kernels whose row in the table was better than the one that came back. ``failures``
    maps labels of kernels to reasons; ``missing`` are labels of kernels that were not reached.
    """

    directory: Path
    device: str
    good: int = 0
    untrusted: int = 0
    kept: int = 0
    networks: int = 0
    failures: dict[str, str] = field(default_factory=dict[str, str])
    missing: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])


def record(carried: Carried, tables: Path | None = None) -> ReadReport:
    """Write verified results into the latency table of the device that measured them.

    Reading the same results again changes nothing.

    Parameters
    ----------
    tables
        Root of all tables; None: the user's.

    Raises
    ------
    TableError
        The table there is damaged, or of another kind.
    MeasureError
        Somebody else writes it.
    """
    manifest, device = carried.bundle.manifest, carried.results.device
    place = relative_directory(manifest.target, manifest.pipeline, device.slug)
    directory = (tables or tables_root()) / place
    report = ReadReport(directory, device.slug)
    with TableWriter(directory, _provenance(carried)) as writer:
        writer.compact()
        for row, samples in _rows(carried):
            old = writer.get(row.kernel)
            if row.status != OK and old is not None and old.status == OK and old.choice == row.choice:
                report.kept += 1
                continue
            if old is None or old != replace(row, sweep=old.sweep):
                writer.append(row, samples)
            _count(report, row)
        writer.compact()
    networks = _networks(carried)
    if networks:
        CarriedNetworks.load(directory).with_networks(networks).save(directory)
        report.networks = len(networks)
    _warn(report, carried)
    return report


def _provenance(carried: Carried) -> TableManifest:
    """The table's manifest as the device's own; the sweep is that of the bundle's seed and profile."""
    manifest, results = carried.bundle.manifest, carried.results
    first, last = results.sessions[0], results.sessions[-1]
    about = new_manifest(manifest.target, results.device, manifest.pipeline, UNIT, KIND, manifest.seed)
    sweep = SweepRecord(
        # From the results, so that reading them again makes no second sweep.
        id=sha256_file(carried.path)[:8],
        command=manifest.command,
        git=manifest.git,
        versions={**manifest.versions, "python": last.python, "driver": None},
        seed=manifest.seed,
        profile=manifest.profile,
        started=first.at,
        conditions=_conditions(carried),
        reached={"runner": RUNNER, "bundle": carried.bundle.digest},
    )
    return about.model_copy(update={"system": last.system, "sweeps": (sweep,)})


def _conditions(carried: Carried) -> dict[str, Any]:
    """The device's state in every session, and how the sentinel's median (ns) went."""
    sessions = [
        {"at": session.at, "cores": list(session.cores), **(session.conditions or {})}
        for session in carried.results.sessions
    ]
    sentinel = [
        {"at": timing.at, "median_ns": statistics.median(timing.sampled.samples_ns)}
        for timing in carried.results.sentinel
    ]
    return {"sessions": sessions, "sentinel": sentinel}


def _count(report: ReadReport, row: Row) -> None:
    if row.failure is not None:
        report.failures[row.label] = row.failure
    elif row.status == UNTRUSTED:
        report.untrusted += 1
    else:
        report.good += 1


def _rows(carried: Carried) -> list[tuple[Row, Samples | None]]:
    packed = {kernel.digest: kernel for kernel in carried.bundle.manifest.kernels}
    rows = [_row(packed[result.digest], result) for result in carried.results.kernels]
    created = carried.bundle.manifest.created
    rows += [_failed(item, item.reason, created) for item in carried.bundle.manifest.unbuilt]
    sentinel = carried.bundle.manifest.sentinel
    if sentinel.digest not in packed and carried.results.sentinel:
        # As in a sweep on this machine: the timing that later ones were compared with.
        reference = carried.results.sentinel[-1].reference
        closest = min(
            carried.results.sentinel,
            key=lambda timing: (
                timing.disturbed is not None,
                abs(statistics.median(timing.sampled.samples_ns) - reference),
            ),
        )
        rows.append(_timed(sentinel, closest.sampled, closest.at, closest.disturbed))
    return rows


def _row(kernel: PackedKernel, result: KernelResult) -> tuple[Row, Samples | None]:
    if result.sampled is None:
        return _failed(kernel, result.why or "not timed", result.at)
    # What TVM makes of an operator of PyTorch may well be the logarithm of a negative number.
    if result.sampled.nonfinite and KernelSpec.parse(kernel.spec).anchor != "fallback":
        return _failed(kernel, f"returned {result.sampled.nonfinite} values that are not finite", result.at)
    return _timed(kernel, result.sampled, result.at, result.disturbed)


def _timed(
    kernel: PackedKernel, sampled: SampledResult, at: str, disturbed: str | None
) -> tuple[Row, Samples | None]:
    s = summarise(sampled.samples_ns)
    numbers = (s.median, s.ci_low, s.ci_high, s.minimum, s.mean)
    status = UNTRUSTED if disturbed else OK
    remarks = [disturbed] if disturbed else []
    remarks += [f"timeout: {sampled.unmet}"] if sampled.unmet else []
    samples = Samples(sampled.samples_ns, sampled.model_dump(mode="json", exclude={"samples_ns"}))
    return _make(kernel, numbers, s.n, status, at, "; ".join(remarks)), samples


def _failed(kernel: PackedKernel | Unbuilt, reason: str, at: str) -> tuple[Row, Samples | None]:
    return _make(kernel, (0.0, 0.0, 0.0, 0.0, 0.0), 0, FAILED_PREFIX + one_line(reason), at, ""), None


def _make(
    kernel: PackedKernel | Unbuilt,
    numbers: tuple[float, float, float, float, float],
    count: int,
    status: str,
    at: str,
    note: str,
) -> Row:
    about, copies, choice = (kernel.digest, kernel.label, kernel.spec), kernel.copies, kernel.choice
    return Row(*about, UNIT, *numbers, count, status, copies, at, choice, note=one_line(note))


def _networks(carried: Carried) -> list[CarriedNetwork]:
    digests = {network.name: network.digest for network in carried.bundle.manifest.networks}
    return [
        CarriedNetwork(
            digest=digests[result.name],
            name=result.name,
            measured_at=result.at,
            bundle=carried.bundle.digest,
            disturbed=result.disturbed,
            samples_ns=result.samples_ns,
        )
        for result in carried.results.networks
        if result.samples_ns
    ]


def _warn(report: ReadReport, carried: Carried) -> None:
    labels = {kernel.digest: kernel.label for kernel in carried.bundle.manifest.kernels}
    report.missing = [labels[digest] for digest in carried.results.missing]
    if report.missing:
        count = len(report.missing)
        report.warnings.append(f"{count} kernels were not reached: run run.py again on the device")
    reasons = Counter(kernel.disturbed for kernel in carried.results.kernels if kernel.disturbed)
    report.warnings.extend(f"{count} kernels are untrusted: {why}" for why, count in reasons.most_common())
    for network in carried.results.networks:
        if network.failure or network.disturbed:
            report.warnings.append(f"network {network.name}: {network.failure or network.disturbed}")
