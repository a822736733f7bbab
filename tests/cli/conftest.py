"""The command line inside this process, and a made-up device for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from hwprune.cli import main
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Program
from hwprune.latency.table import LatencyTable
from hwprune.measure.stats import Summary
from hwprune.planner.workbench import Workbench
from tests.planner.fakes import row, table

torch.set_num_threads(1)


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture
def hw(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs ``hwprune ARGUMENTS`` in ``tmp_path``, as the console script would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWPRUNE_TABLES", str(tmp_path / ".tables"))
    monkeypatch.setattr(sys, "path", [str(Path(__file__).resolve().parents[2]), *sys.path])

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["hwprune", *arguments])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        assert code is None or isinstance(code, int)
        return Ran(code or 0, captured.out, captured.err)

    return run


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
            found[name] = Summary(ns, ns, ns, ns, ns, 0, 9)
        return found

    _measured: list[KernelSpec] = []
    monkeypatch.setattr(Workbench, "measure_kernels", measure)
    monkeypatch.setattr(Workbench, "time_networks", time)
