import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from hwprune.cli.common import Care
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.table import LatencyTable
from hwprune.measure.outcome import ProfileReport
from hwprune.measure.stopping import PROFILES
from hwprune.planner.workbench import Workbench
from tests.cli.conftest import Command

PROFILE = ("profile", "tests.small:Small", "-i", "1x1x8x8")


def sweeps_end_with(report: ProfileReport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up device's sweeps end with this report."""
    made_up = Workbench.measure_kernels

    def measure(self: Workbench, specs: Sequence[KernelSpec]) -> LatencyTable:
        if report not in self.sweeps:  # one sweep, in however many rounds
            self.sweeps.append(report)
        return made_up(self, specs)

    monkeypatch.setattr(Workbench, "measure_kernels", measure)


@pytest.mark.usefixtures("fake_device")
def test_failed_kernels_are_listed_and_set_the_exit_code(hw: Command, monkeypatch: pytest.MonkeyPatch):
    report = ProfileReport(Path("table"), 9, 2, measured=5, checked=6)
    report.failures = {"beef": "conv2d 1x8: returned wrong values: 1 instead of 2", "f00d": "add: died"}
    report.unmet = {str(n): f"pool {n}: timeout: 3 of 30 samples" for n in range(7)}
    report.warnings = ["3 kernels are untrusted: other processes 40%"]
    sweeps_end_with(report, monkeypatch)
    ran = hw(*PROFILE)
    assert ran.code == 1
    assert "FAILED beef conv2d 1x8: returned wrong values: 1 instead of 2\n" in ran.err
    assert "FAILED f00d add: died\n" in ran.err
    assert "5 measured, 2 known already, 6 compared with PyTorch, 7 timed out" in ran.err
    assert "warning: 3 kernels are untrusted" in ran.err
    assert ran.err.count("3 of 30 samples") == 5
    assert "timed out: 2 more" in ran.err
    ran = hw(*PROFILE, "--json")
    assert ran.code == 1
    data = json.loads(ran.out)
    assert data["failures"] == report.failures
    assert (data["sweep"]["failed"], data["sweep"]["unmet"]) == (2, 7)


@pytest.mark.usefixtures("fake_device")
def test_a_clean_sweep_is_no_failure(hw: Command, monkeypatch: pytest.MonkeyPatch):
    sweeps_end_with(ProfileReport(Path("table"), 9, 9), monkeypatch)
    ran = hw(*PROFILE)
    assert ran.code == 0
    assert "0 measured, 9 known already\n" in ran.err


def test_several_sweeps_count_as_one():
    first = ProfileReport(Path("t"), 4, 1, measured=3, failures={"a": "A", "b": "B"}, unmet={"c": "C"})
    second = ProfileReport(Path("t"), 2, 1, measured=1, done={"a", "c"}, unmet={"d": "D"})
    total = ProfileReport.of_all([first, second])
    assert (total.requested, total.skipped, total.measured) == (6, 2, 4)
    assert (total.failures, total.unmet) == ({"b": "B"}, {"d": "D"})
    assert (first.failures, first.measured) == ({"a": "A", "b": "B"}, 3)


def test_the_help_states_the_criteria_of_the_profiles():
    _, option = get_args(Care)
    for profile in PROFILES.values():
        assert profile.name in option.help
        assert profile.criteria() in option.help
