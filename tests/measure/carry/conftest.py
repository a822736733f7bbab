"""A bundle of a tiny network, and a device for it: a fresh virtual environment without packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from hwprune.api import analyse_model
from hwprune.compile import pipeline_hash
from hwprune.latency.kernel import KernelInput, KernelOp, KernelSpec
from hwprune.measure.carry.device.main import RESULTS
from hwprune.measure.carry.pack import PackReport, pack
from hwprune.measure.carry.results import open_carried
from hwprune.planner.carried import CarriedWorkbench
from hwprune.planner.workbench import Workbench
from hwprune.target import Target, load_target
from tests.measure.fakes import FAST
from tests.small import SHAPE, Small

#: Widths on offer per group, so that few kernels are built.
STEPS = 2
MINIMUM = 0.5
#: No code is generated for this one.
UNBUILDABLE = KernelSpec((KernelInput((1, 8), "data", "float16"),), (KernelOp("relu", (0,)),))


@dataclass(frozen=True)
class Packed:
    """A bundle as it was packed; tests that change it copy it first."""

    directory: Path
    report: PackReport
    bench: CarriedWorkbench
    target: Target

    def copy(self, place: Path) -> Path:
        return Path(shutil.copytree(self.directory, place))


@pytest.fixture(scope="session")
def target() -> Target:
    return load_target("host")


def open_bench(target: Target) -> CarriedWorkbench:
    captured, deps = analyse_model(Small(), (torch.zeros(SHAPE),))
    return CarriedWorkbench.of(
        Workbench.open(captured, deps, target, profile=FAST, steps=STEPS, minimum=MINIMUM)
    )


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory, target: Target) -> Packed:
    bench = open_bench(target)
    directory = tmp_path_factory.mktemp("carry") / "bundle"
    report = pack(
        [*bench.needed(), UNBUILDABLE],
        target,
        directory,
        pipeline=pipeline_hash(target),
        networks={
            "dense": bench.program_at(bench.dense_widths()),
            "plan": bench.program_at({group: found.widths[0] for group, found in bench.widths.items()}),
        },
        profile=FAST,
    )
    return Packed(directory, report, bench, target)


Device = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """Runs ``python3 run.py ARGUMENTS`` of a bundle where nothing but Python is installed."""
    place = tmp_path_factory.mktemp("device") / "python"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"

    def run(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), str(bundle / "run.py"), *arguments]
        return subprocess.run(command, env={}, capture_output=True, text=True, timeout=120, check=False)

    probe = [str(python), "-c", "import numpy"]
    assert subprocess.run(probe, env={}, capture_output=True, check=False).returncode != 0, sys.version
    return run


@pytest.fixture(scope="session")
def measured(packed: Packed, device: Device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with results in it."""
    place = packed.copy(tmp_path_factory.mktemp("back") / "bundle")
    done = device(place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / RESULTS).is_file() and open_carried(place)
    return place
