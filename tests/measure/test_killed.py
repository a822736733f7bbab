"""Sweeps that are killed at random moments, and two sweeps that want one table."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from hwprune.errors import MeasureError
from hwprune.latency.rows import Row
from hwprune.latency.samples import SampleFile
from hwprune.latency.table import LatencyTable
from hwprune.latency.verify import verify
from hwprune.measure.profile import profile
from hwprune.measure.sampling import Sampled
from hwprune.measure.stopping import MeasureProfile
from tests.measure.fakes import QUIET, TARGET, InlineBuilder, InlineRunner, conv

SPECS = [conv(w) for w in range(8, 128)]
KILLS = 10
#: Kernels that a sweep finishes at most before it is killed.
FINISHED = 9
#: Seconds that one kernel takes; files are opened, moved and written in about as many.
KERNEL_S = 0.005


class SlowRunner(InlineRunner):
    """Takes a while, so that a sweep can be killed half-way."""

    def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
        time.sleep(KERNEL_S)
        return super().measure(library, profile)


def sweep(directory: Path, ready: Connection | None = None) -> None:
    """A whole sweep over :data:`SPECS`; says when it begins, and when a kernel is finished."""

    def progress(done: int, total: int, label: str) -> None:
        if ready is not None and not label.startswith("building"):
            ready.send(done)

    if ready is not None:
        ready.send("begin")
    profile(
        SPECS,
        TARGET,
        directory,
        builder=InlineBuilder(),
        runner=SlowRunner(),
        profile=QUIET,
        pipeline="abc",
        batch=4,
        progress=progress,
    )


def rows(directory: Path) -> dict[str, Row]:
    return {row.digest: row for row in LatencyTable.load(directory)}


def test_ten_kills_lose_nothing(tmp_path: Path):
    """After each kill the table verifies and holds all that it held before; in the end it is complete."""
    # One process with everything imported, from which all sweeps are forked.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.measure.test_killed"])
    generator = random.Random(7)
    directory, known = tmp_path / "killed", dict[str, Row]()
    in_between = 0
    for _ in range(KILLS):
        ready, child = context.Pipe(duplex=False)
        process = context.Process(target=sweep, args=(directory, child))
        process.start()
        child.close()
        for _ in range(1 + generator.randint(0, FINISHED)):
            ready.recv()
        time.sleep(generator.uniform(0.0, 4 * KERNEL_S))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        found = verify(directory)
        assert found.problems == []
        now = rows(directory)
        assert now.keys() >= known.keys()
        # What was measured stays as it was measured.
        assert all(now[digest] == row for digest, row in known.items())
        assert found.rows_with_samples == len(now)
        in_between += len(known) < len(now) < len(SPECS)
        known = now
    assert in_between >= KILLS // 2
    sweep(directory)
    sweep(tmp_path / "whole")
    assert rows(directory).keys() == rows(tmp_path / "whole").keys() >= {s.digest() for s in SPECS}
    for place in (directory, tmp_path / "whole"):
        found = verify(place)
        assert (found.problems, found.rows_with_samples) == ([], len(SPECS) + 1)
        assert {p.name for p in place.iterdir()} == {"table.csv", "manifest.json", "samples.bin", ".lock"}
    manifest = LatencyTable.load(directory).manifest
    assert {row.sweep for row in rows(directory).values()} == {s.id for s in manifest.sweeps}
    assert len(manifest.sweeps) > in_between
    assert len(SampleFile(directory).entries) == len(SPECS) + 1


def test_two_sweeps_of_one_table(tmp_path: Path):
    """The second is refused by name, the first goes on, nothing is lost."""
    context = multiprocessing.get_context("forkserver")
    ready, child = context.Pipe(duplex=False)
    process = context.Process(target=sweep, args=(tmp_path, child))
    process.start()
    child.close()
    while ready.recv() != 1:
        pass
    with pytest.raises(MeasureError, match=rf"is being written by process {process.pid}\n.*wait"):
        sweep(tmp_path)
    process.join(60)
    assert process.exitcode == 0
    assert len(rows(tmp_path)) == len(SPECS) + 1
    assert verify(tmp_path).good
