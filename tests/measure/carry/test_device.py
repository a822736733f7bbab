"""The parts of the device's script, run here."""

from __future__ import annotations

import sys
from array import array
from pathlib import Path

import numpy as np
import pytest

from hwprune.measure.carry.device.interval import median_interval, relative_width
from hwprune.measure.carry.device.journal import (
    FAILURE,
    FASTER,
    KERNEL,
    SESSION,
    UNJUDGED,
    VERDICT,
    Journal,
)
from hwprune.measure.carry.device.machine import unfit
from hwprune.measure.carry.device.output import nonfinite, wrong_value
from hwprune.measure.carry.device.worker import KernelError, KernelProcess
from hwprune.measure.stats import summarise

ECHO = "import sys\nfor line in sys.stdin: print(line.replace('ask', 'answer'), end='', flush=True)"


def test_median_interval_covers_the_median_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    for count in (8, 30, 200):
        series = random.exponential(size=(400, count))
        found = [median_interval(list(values)) for values in series]
        covered = np.mean([f.ci_low <= np.log(2) <= f.ci_high for f in found])
        assert covered > 0.93, f"{count} samples: {covered:.1%}"


def test_median_interval_is_about_that_of_the_bootstrap():
    values = np.random.default_rng(1).normal(100, 5, 60).tolist()
    ours, theirs = median_interval(values), summarise(values)
    assert ours.median == theirs.median
    assert relative_width(values) == pytest.approx(theirs.relative_width, rel=0.5)


def test_interval_over_passes_covers_what_changes_between_them():
    random = np.random.default_rng(2)
    parts = [random.normal(level, 1, 20) for level in (100, 104, 108)]
    values = np.concatenate(parts).tolist()
    ours, theirs = median_interval(values, [20] * 3), summarise(values, passes=[20] * 3)
    assert ours.relative_width == pytest.approx(theirs.relative_width, rel=0.35)
    assert ours.relative_width > 2 * median_interval(parts[0].tolist()).relative_width


@pytest.mark.parametrize("values", [[3.0], [3.0, 4.0], [5.0] * 7])
def test_median_interval_of_few_or_equal_samples_stays_inside_them(values: list[float]):
    found = median_interval(values)
    assert min(values) <= found.ci_low <= found.median <= found.ci_high <= max(values)


def test_values_are_judged_relative_to_the_largest():
    assert wrong_value([1.0, 2.0, 3e-4], [[1, 2.001], [2, 0.0]]) is None
    assert "instead of 2.5 at 1" in (wrong_value([1.0, 2.0], [[1, 2.5]]) or "")
    assert "instead of 2 at 1" in (wrong_value([1.0, float("nan")], [[1, 2.0]]) or "")
    assert "returned 1 values" in (wrong_value([1.0], [[1, 2.0]]) or "")
    assert wrong_value([1.0], None) is None
    assert nonfinite(array("f", [1, 2, 3])) == 0
    assert nonfinite(array("f", [1, float("nan"), float("inf"), -float("inf")])) == 3


def test_machine_that_cannot_run_a_bundle_is_told_why():
    import platform

    here = {"architecture": platform.machine(), "flags": ["avx2", "fma"], "threads": 2}
    assert unfit(here, {"avx2", "fma"}, 2) is None
    assert "need fma" in (unfit(here, {"avx2"}, 2) or "")
    assert "2 threads" in (unfit(here, {"avx2", "fma"}, 1) or "")
    assert "for sparc" in (unfit({**here, "architecture": "sparc"}, {"avx2", "fma"}, 2) or "")


def child(code: str) -> KernelProcess:
    return KernelProcess([sys.executable, "-c", code], 1)


def test_child_that_crashes_is_named_by_its_signal_and_the_next_request_gets_a_new_one():
    process = child(
        "import os, sys\nfor line in sys.stdin:\n"
        "  if 'crash' in line: os.kill(os.getpid(), 11)\n  print('{\"fine\": 1}', flush=True)"
    )
    with pytest.raises(KernelError, match="died with SIGSEGV"):
        process.request({"do": "crash"}, 20)
    assert process.request({"do": "other"}, 20) == {"fine": 1}
    process.end()


def test_child_that_hangs_is_ended():
    process = child("import time\ntime.sleep(100)")
    with pytest.raises(KernelError, match=r"did not answer within 0\.3 s"):
        process.request({"do": "anything"}, 0.3)
    assert process.pid is None


def test_last_words_of_a_child_are_passed_on():
    with pytest.raises(KernelError, match="exit code 1: OSError: no such library"):
        child("raise OSError('no such library')").request({}, 20)


def test_error_answers_are_kernel_errors():
    with pytest.raises(KernelError, match="no such thing"):
        child('print(\'{"error": "no such thing"}\', flush=True); input()').request({}, 20)


def begin(path: Path, bundle: str = "b1") -> Journal:
    journal = Journal(path, bundle)
    journal.add(SESSION, bundle=bundle)
    return journal


def test_journal_remembers_and_forgets_only_a_torn_line(tmp_path: Path):
    path = tmp_path / "journal"
    journal = begin(path)
    journal.add(KERNEL, digest="a", sampled={"n": 1}, at="t1")
    journal.add(KERNEL, digest="b", sampled={"n": 2}, at="t2")
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    again = Journal(path, "b1")
    assert again.state.unjudged() == ["a"]
    assert again.state.kernel("a").to_dict() == {
        **{"digest": "a", "at": "t1", "parts": [], "spoiled": [{"n": 1}]},
        **{"why": UNJUDGED, "failure": None},
    }
    again.add(VERDICT, digests=["a"], why=None)
    again.close()
    final = Journal(path, "b1").state
    assert final.kernel("a").parts == [{"n": 1}] and final.unjudged() == []
    assert final.kernel("b").parts == []


def test_journal_that_is_damaged_or_of_another_bundle_is_refused(tmp_path: Path):
    path = tmp_path / "journal"
    journal = begin(path)
    journal.add(KERNEL, digest="a", sampled={}, at="")
    journal.close()
    with pytest.raises(ValueError, match="another bundle"):
        Journal(path, "b2")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0].replace(b"b1", b"b2") + lines[1])
    with pytest.raises(ValueError, match="line 1 is damaged"):
        Journal(path, "b1")


def test_verdicts_go_to_what_is_pending_and_a_faster_machine_spoils_all_else(tmp_path: Path):
    journal = begin(tmp_path / "journal")
    for digest in "ab":
        journal.add(KERNEL, digest=digest, sampled={"pass": 1}, at="")
    journal.add(VERDICT, digests=["a", "b"], why=None)
    journal.add(KERNEL, digest="a", sampled={"pass": 2}, at="")
    journal.add(VERDICT, digests=["a"], why="noise")
    a, b = journal.state.kernel("a"), journal.state.kernel("b")
    assert a.parts == [{"pass": 1}] and a.spoiled == [{"pass": 2}] and a.why == "noise"
    assert b.parts == [{"pass": 1}] and b.why is None
    journal.add(KERNEL, digest="b", sampled={"pass": 2}, at="")
    journal.add(FASTER, why="drifted")
    journal.add(VERDICT, digests=["b"], why="drifted")
    assert a.parts == b.parts == [] and len(a.spoiled) == len(b.spoiled) == 2
    journal.add(FAILURE, digest="a", why="crash", at="")
    assert a.failure == "crash"
    journal.add(KERNEL, digest="a", sampled={"pass": 3}, at="")
    assert a.failure is None and a.pending == [{"pass": 3}]
    journal.close()
