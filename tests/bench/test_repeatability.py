"""Bookkeeping of the repeatability benchmark, with a made-up machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import repeatability
from bench.repeatability import HALVES, Setting, both, rows_of, summary
from hwprune.latency.diff import diff
from hwprune.latency.table import LatencyTable
from hwprune.measure.profile import profile
from tests.measure.fakes import QUIET, TARGET, InlineBuilder, InlineRunner, conv

SPECS = tuple(conv(w) for w in range(8, 88, 8))


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> list[InlineRunner]:
    """The runners that sweeps use, one after the other."""
    waiting: list[InlineRunner] = []

    def made_up(*arguments: Any, **options: Any) -> Any:
        runner = waiting.pop(0)
        return profile(*arguments, **options, builder=InlineBuilder(), runner=runner, pipeline="abc")

    monkeypatch.setattr(repeatability, "profile", made_up)
    return waiting


def setting(place: Path) -> Setting:
    return Setting(SPECS, TARGET, QUIET, place, 3)


def test_the_second_sweep_waits_for_its_time(tmp_path: Path, runners: list[InlineRunner]) -> None:
    one = setting(tmp_path)
    made = [InlineRunner(), InlineRunner()]
    runners += made
    assert not both(one, 3600, wait=False)
    assert (one.complete("first") is not None, one.complete("second") is None) == (True, True)
    assert not both(one, 3600, wait=False)
    assert len(runners) == 1  # the first sweep is not made again
    assert both(one, 0, wait=False)
    assert both(one, 3600, wait=False)
    assert not runners
    assert sorted(made[0].timed) == sorted(made[1].timed)
    assert made[0].timed != made[1].timed  # another order


def test_a_sweep_that_was_cut_off_goes_on(tmp_path: Path, runners: list[InlineRunner]) -> None:
    class Interrupted(InlineRunner):
        def measure(self, library, profile):  # type: ignore[no-untyped-def]
            if len(self.timed) == 8:
                raise KeyboardInterrupt
            return super().measure(library, profile)

    one = setting(tmp_path)
    runners += [InlineRunner(), Interrupted(), InlineRunner()]
    with pytest.raises(KeyboardInterrupt):
        both(one, 0, wait=False)
    assert one.complete("second") is None
    # It was begun in time, so that it is not put off again.
    assert both(one, 3600, wait=False)
    assert not runners


def test_summary_of_known_differences(tmp_path: Path, runners: list[InlineRunner]) -> None:
    odd = SPECS[4].digest()

    def drifted(spec, number):  # type: ignore[no-untyped-def]
        return 1.5 if spec.digest() == odd else 1.02

    runners += [InlineRunner(), InlineRunner(drifted)]
    both(setting(tmp_path), 0, wait=False)
    first, second = (LatencyTable.load(tmp_path / half) for half in HALVES)
    found = diff(first, second)
    result = summary(first, second, found)
    assert (result["compared"], result["kernels"]) == (len(SPECS) + 1, len(SPECS) + 1)
    assert result["median"] == pytest.approx(0.02)
    assert result["sentinel_change"] == pytest.approx(0.02)
    assert result["max_abs"] == pytest.approx(0.5)
    assert result["spread_p95_abs"] == pytest.approx((1.5 / 1.02 - 1) / 2, rel=0.2)
    assert result["beyond_both_share"] == 1.0
    assert result["pause_s"] >= 0
    rows = rows_of(found)
    assert rows[0]["label"] == SPECS[4].label()
    assert rows[0]["relative"] == pytest.approx(0.5)
