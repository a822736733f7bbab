"""The command line as a process of its own, with real kernels: streams, exit codes, interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hwprune.latency.rows import OK
from hwprune.latency.table import LatencyTable

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ("profile", "tests.small:Small", "-i", "1x1x8x8", "--json")


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


def run(cwd: Path, tables: Path, *arguments: str) -> tuple[int, str, str]:
    process = start(cwd, tables, *arguments)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def journal_lines(tables: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in tables.rglob("journal.csv"))


def test_an_interrupted_profile_keeps_its_kernels_and_goes_on(tmp_path: Path, tables: Path):
    process = start(tmp_path, tables, *PROFILE)
    deadline = time.monotonic() + 120
    # The sentinel's row and at least one kernel's.
    while journal_lines(tables) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to every process of the group
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert out == ""
    assert "interrupted" in err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    (directory,) = [path.parent for path in tables.rglob("manifest.json")]
    assert not [path for path in directory.iterdir() if path.name.startswith(".build")]
    first = {row.digest: row for row in LatencyTable.load(directory)}
    assert first

    code, out, err = run(tmp_path, tables, *PROFILE)
    assert code == 0, err
    found = json.loads(out)
    second = {row.digest: row for row in LatencyTable.load(directory)}
    assert found == {"table": str(directory), "rows": len(second), "kernels": found["kernels"]}
    assert first.keys() <= second.keys()
    assert len(first) < len(second)
    # A trusted row is not measured again, unless the second run found the machine quieter.
    for digest, row in first.items():
        if row.status == OK and second[digest].status == OK:
            assert second[digest] == row or row.copies == 0 or "sentinel" in err
    assert "profile" in err


def test_errors_of_a_process_leave_stdout_empty(tmp_path: Path, tables: Path):
    code, out, err = run(tmp_path, tables, "plan", "tests.small:Small", "-i", "1x1x8x8", "-t", "hots", "--json")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown target 'hots'\n  what to do: ")


def test_the_whole_way_from_a_plan_to_a_bundle(tmp_path: Path, tables: Path):
    small = ("tests.small:Small", "-i", "1x1x8x8")
    code, out, err = run(tmp_path, tables, "plan", *small, "-l", "70%", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert plan["predicted_ns"] <= plan["budget_ns"] == 0.7 * plan["dense_ns"]
    assert "build pruned network" in err or "time networks" in err
    code, out, err = run(tmp_path, tables, "prune", *small, "-p", "plan.json", "--json")
    assert code == 0, err
    assert json.loads(out)["max_rel_error"] <= 1e-4
    code, out, err = run(tmp_path, tables, "compile", *small, "--pruned", "pruned", "-o", "bundle", "--json")
    assert code == 0, err
    assert json.loads(out)["max_rel_error"] <= 1e-4
    code, out, err = run(tmp_path, tables, "bench", "bundle", "--profile", "quick", "-o", "bench.json", "--json")
    assert code == 0, err
    bench = json.loads(out)
    assert bench == json.loads((tmp_path / "bench.json").read_text())
    (row,) = bench["rows"]
    assert row["ratio"] == 1.0
    assert 0 < row["low_ms"] <= row["median_ms"] <= row["high_ms"]
