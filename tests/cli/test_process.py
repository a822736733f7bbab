"""The command line as a process of its own, with real kernels: streams, exit codes, interrupts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hwprune.latency.rows import OK
from hwprune.latency.table import LatencyTable
from hwprune.measure.rotation import sentinel_spec
from tests.cli.conftest import Command

ROOT = Path(__file__).resolve().parents[2]
#: One round of measuring, without looking for steps.
PROFILE = (
    *("profile", "tests.small:Small", "-i", "1x1x8x8"),
    *("--bound", "20%", "--budget", "1s", "--json"),
)


def start(cwd: Path, tables: Path, *arguments: str) -> subprocess.Popen[str]:
    code = "from hwprune.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HWPRUNE_TABLES": str(tables), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def journal_lines(tables: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in tables.rglob("journal.csv"))


def test_an_interrupted_profile_keeps_its_kernels_and_goes_on(
    tmp_path: Path, tables: Path, hw: Command, monkeypatch: pytest.MonkeyPatch
):
    own = tmp_path / "tables"
    process = start(tmp_path, own, *PROFILE)
    deadline = time.monotonic() + 120
    # The sentinel's row and at least one kernel's.
    while journal_lines(own) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to every process of the group
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert out == ""
    assert "interrupted" in err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    (directory,) = [path.parent for path in own.rglob("manifest.json")]
    assert not [path for path in directory.iterdir() if path.name.startswith(".build")]
    first = {row.digest: row for row in LatencyTable.load(directory)}
    assert first

    monkeypatch.setenv("HWPRUNE_TABLES", str(own))
    ran = hw(*PROFILE)
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    second = {row.digest: row for row in LatencyTable.load(directory)}
    assert (found["table"], found["rows"]) == (str(directory), len(second))
    assert found["bound"] == 0.2
    assert sum(family["measured"] for family in found["families"]) <= len(second)
    assert first.keys() <= second.keys()
    assert len(first) < len(second)
    sentinel = sentinel_spec().digest()
    # A machine that has become faster discredits what was timed before: that is measured again.
    if first[sentinel] == second[sentinel]:
        for digest, row in first.items():
            if row.status == OK and second[digest].status == OK:
                assert second[digest] == row, "a trusted row is not measured again"
    assert "profile building" in ran.err
    if not any(tables.iterdir()):
        shutil.copytree(own, tables, dirs_exist_ok=True)  # others need not measure the same again


def test_streams_and_exit_code_of_a_process(tmp_path: Path, tables: Path):
    process = start(tmp_path, tables, "targets", "hots", "--json")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: unknown target 'hots'\n  what to do: use one of host")
    process = start(tmp_path, tables, "targets", "host", "--json")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["name"] == "host"


@pytest.mark.usefixtures("loaded_once")
def test_the_whole_way_from_a_plan_to_a_bundle(hw: Command, tables: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HWPRUNE_TABLES", str(tables))
    small = ("tests.small:Small", "-i", "1x1x8x8")

    def data(*arguments: str) -> dict[str, Any]:
        ran = hw(*arguments, "--json")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)

    # The plan takes about half of the dense latency: far from what a busy machine could make of it.
    plan = data("plan", *small, "-l", "95%", "--checks", "1")
    assert plan["predicted_ns"] <= plan["budget_ns"] == pytest.approx(0.95 * plan["dense_ns"])
    assert plan["measured_ns"] > 0
    assert data("prune", *small, "-p", "plan.json")["max_rel_error"] <= 1e-4
    compiled = data("compile", *small, "--pruned", "pruned", "-o", "bundle")
    assert compiled["max_rel_error"] <= 1e-4
    assert compiled["target"] == "host"
    bench = data("bench", "bundle", "--profile", "quick", "-o", "bench.json")
    assert bench == json.loads(Path("bench.json").read_text())
    (row,) = bench["rows"]
    assert row["ratio"] == 1.0
    assert 0 < row["low_ms"] <= row["median_ms"] <= row["high_ms"]
    # A bundle is replaced by a bundle.
    assert data("compile", *small, "-o", "bundle", "--no-check")["kernels"] == compiled["kernels"]
