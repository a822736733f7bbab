"""Rows of a latency table from what a device has measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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
from hwprune.measure.carry.results import Carried, KernelResult
from hwprune.measure.provenance import new_manifest
from hwprune.measure.sampling import Sampled
from hwprune.measure.series import lengths_of, samples_of, unmet
from hwprune.measure.stats import summarise
from hwprune.measure.stopping import MeasureProfile
from hwprune.measure.table_writer import TableWriter

#: What the numbers of a carried bundle are; the script on the device can take no others.
UNIT, KIND, RUNNER = "ns", "measured", "carry"


@dataclass
class ReadReport:
    """What was read.

    ``kept`` counts kernels whose row in the table was better than the one that came back. ``failures``
    maps labels of kernels to reasons; ``missing`` are labels of kernels that were not reached.
    ``networks_ns`` are medians of whole networks, by name.
    """

    directory: Path
    device: str
    good: int = 0
    untrusted: int = 0
    kept: int = 0
    networks_ns: dict[str, float] = field(default_factory=dict[str, float])
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
    reasons: Counter[str] = Counter()
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
            if row.status == UNTRUSTED:
                reasons[row.note.partition("; ")[0]] += 1
        writer.compact()
    networks = _networks(carried)
    if networks:
        CarriedNetworks.load(directory).with_networks(networks).save(directory)
        report.networks_ns = {network.name: network.summary().median for network in networks}
    report.warnings += [f"{count} kernels are untrusted: {why}" for why, count in reasons.most_common()]
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
    """The device's state and its sentinel's history, as of a sweep here; of earlier sessions, too."""
    *earlier, last = (
        {"at": session.at, "cores": list(session.cores), **(session.conditions or {})}
        for session in carried.results.sessions
    )
    return {**last, "earlier": earlier} if earlier else last


def _count(report: ReadReport, row: Row) -> None:
    if row.failure is not None:
        report.failures[row.label] = row.failure
    elif row.status == UNTRUSTED:
        report.untrusted += 1
    else:
        report.good += 1


def _rows(carried: Carried) -> list[tuple[Row, Samples | None]]:
    manifest, results = carried.bundle.manifest, carried.results
    profile = MeasureProfile.from_dict(manifest.profile)
    packed = {kernel.digest: kernel for kernel in manifest.kernels}
    rows = [_row(packed[result.digest], result, profile) for result in results.kernels]
    rows += [_failed(item, item.reason, manifest.created) for item in manifest.unbuilt]
    if manifest.sentinel.digest not in packed and results.sentinel:
        # As in a sweep on this machine: the timings that later ones were compared with.
        reference = next(s for s in results.sentinel if s.reference == results.sentinel[-1].reference)
        parts = [part.sampled() for part in reference.parts]
        rows.append(_timed(manifest.sentinel, parts, profile, reference.at, reference.disturbed))
    return rows


def _row(kernel: PackedKernel, result: KernelResult, profile: MeasureProfile) -> tuple[Row, Samples | None]:
    good, spoiled = ([part.sampled() for part in parts] for parts in (result.parts, result.spoiled))
    enough = len(good) >= profile.passes
    parts = good if enough else [*good, *spoiled]
    if result.failure is not None or not parts:
        return _failed(kernel, result.failure or "not timed", result.at)
    nonfinite = max(part.nonfinite for part in parts)
    # What TVM makes of an operator of PyTorch may well be the logarithm of a negative number.
    if nonfinite and KernelSpec.parse(kernel.spec).anchor != "fallback":
        return _failed(kernel, f"returned {nonfinite} values that are not finite", result.at)
    return _timed(kernel, parts, profile, result.at, None if enough else result.why or "disturbed")


def _timed(
    kernel: PackedKernel, parts: Sequence[Sampled], profile: MeasureProfile, at: str, disturbed: str | None
) -> tuple[Row, Samples | None]:
    values = samples_of(parts)
    s = summarise(values, passes=lengths_of(parts))
    missing = unmet(parts, profile)
    remarks = [disturbed] if disturbed else []
    remarks += [f"timeout: {missing}"] if missing else []
    numbers = (s.median, s.ci_low, s.ci_high, s.minimum, s.mean)
    row = _make(kernel, numbers, s.n, UNTRUSTED if disturbed else OK, at, "; ".join(remarks))
    about = {"passes": [_about(part) for part in parts], "unmet": missing, "outliers": list(s.outliers)}
    return row, Samples(tuple(values), about)


def _about(part: Sampled) -> dict[str, Any]:
    """One pass without its samples, but for how many they are."""
    data = part.to_dict()
    return {"samples": len(data.pop("samples_ns")), **data}


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
    for network in carried.results.networks:
        if network.failure or network.disturbed:
            report.warnings.append(f"network {network.name}: {network.failure or network.disturbed}")
