"""A device whose kernels cost what a formula says, for benchmarks of everything but latency."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

from bench.plan_accuracy_prices import made_up_ns
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.manifest import SweepRecord, TableManifest
from hwprune.latency.program import Program
from hwprune.latency.rows import Row
from hwprune.latency.table import LatencyTable
from hwprune.measure.stats import Summary
from hwprune.planner.workbench import Workbench

_NAME = "made-up"
_MANIFEST = TableManifest(
    target={"name": _NAME},
    target_string="",
    device={"slug": _NAME},
    system="",
    pipeline="0" * 12,
    unit="ns",
    provenance="estimated",
    created="",
    updated="",
    sweeps=(SweepRecord(id="0" * 8, command="", git=None, versions={}, seed=0, profile={}, started=""),),
)


@contextlib.contextmanager
def made_up_device() -> Generator[None]:
    """Planning within asks :func:`bench.plan_accuracy_prices.made_up_ns` instead of measuring."""
    rows: dict[str, Row] = {}

    def measure(_bench: Workbench, specs: Sequence[KernelSpec]) -> LatencyTable:
        for spec in specs:
            ns = made_up_ns(spec)
            numbers = (ns, ns, ns, ns, ns)
            rows[spec.digest()] = Row(
                spec.digest(), spec.label(), spec.canonical(), "ns", *numbers, 9, "ok", 1, ""
            )
        return LatencyTable(Path(_NAME), _MANIFEST, rows.values())

    def time(_bench: Workbench, programs: Mapping[str, Program]) -> dict[str, Summary]:
        sums = {name: sum(made_up_ns(step.spec) for step in p.steps) for name, p in programs.items()}
        return {name: Summary(ns, ns, ns, ns, ns, (), 9) for name, ns in sums.items()}

    with (
        patch.object(Workbench, "measure_kernels", measure),
        patch.object(Workbench, "time_networks", time),
        # Real kernels must not be mixed in.
        patch.object(Workbench, "known_table", lambda _: None),
    ):
        yield
