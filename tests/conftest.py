"""What several directories of tests share."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Program
from hwprune.latency.table import LatencyTable
from hwprune.measure.stats import Summary
from hwprune.planner.workbench import Workbench
from tests.planner.fakes import row, table


def pytest_collection_finish() -> None:
    """Spare the collector what stays until the end: looking through all modules takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latency tables of this run: real kernels of the smallest network are measured once."""
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(autouse=True)
def no_shipped_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in ``latency_tables`` for the machine that runs the tests must not change them."""
    monkeypatch.setattr("hwprune.latency.location.shipped_root", lambda: Path("no-such-directory"))


@pytest.fixture
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks and contenders are loaded by one process each instead of several, one after the other.

    For tests of what real engines return: each load imports a framework, which takes seconds.
    """
    monkeypatch.setattr("hwprune.measure.network.LOADS", 1)
    monkeypatch.setattr("hwprune.measure.compare.LOADS", 1)


def price(spec: KernelSpec) -> float:
    """Nanoseconds: a constant and the numbers that a kernel reads."""
    total = 500.0
    for tensor in spec.inputs:
        size = 1
        for dimension in tensor.shape:
            size *= dimension
        total += size
    return total


@pytest.fixture
def fake_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels cost what :func:`price` says, networks what their kernels cost."""

    def measure(self: Workbench, specs: Sequence[KernelSpec]) -> LatencyTable:
        known = {s.digest(): s for s in [*_measured, *specs]}
        _measured[:] = known.values()
        self.progress("profile made-up kernels", len(specs), len(specs))
        return table([row(spec, price(spec)) for spec in _measured])

    def time(self: Workbench, programs: Mapping[str, Program]) -> dict[str, Summary]:
        found: dict[str, Summary] = {}
        for name, program in programs.items():
            ns = sum(price(step.spec) for step in program.steps)
            found[name] = Summary(ns, ns, ns, ns, ns, (), 9)
        return found

    _measured: list[KernelSpec] = []
    monkeypatch.setattr(Workbench, "measure_kernels", measure)
    # Real kernels of other tests must not be mixed in.
    monkeypatch.setattr(Workbench, "known_table", lambda self: None)  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(Workbench, "time_networks", time)
