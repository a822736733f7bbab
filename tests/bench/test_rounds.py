"""The benchmark of rounds: a run of seconds from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import rounds
from tests.bench.tiny import tiny_net, tiny_task


def test_which_ways_are_compared() -> None:
    short = [(2, 1, "none"), (2, 1, "recalibrated"), (2, 1, "least_squares"), (1, 2, "least_squares")]
    found = [*rounds.ways([(2, 1), (2, 3)], list(rounds.FITS))]
    assert found == [*short, (2, 3, "none"), (2, 3, "least_squares"), (1, 6, "least_squares")]
    assert [*rounds.ways([(3, 1)], ["none"])] == [(3, 1, "none")]


def test_a_run_has_every_way_and_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(rounds.NETS, "tiny", tiny_net)
    monkeypatch.setitem(rounds.TASKS, "tiny", tiny_task)
    out = tmp_path / "rounds.json"
    text = "--models tiny --tasks tiny --seeds 1 --schedules 2x1 --train 3 --budget 0.8"
    asked = [*text.split(), "--out", str(out), "--tables", str(tmp_path / "tables")]
    rounds.main(asked)
    found = json.loads(out.read_text())
    ways = [(row["rounds"], row["steps"], row["fit"]) for row in found["rows"]]
    assert ways == [*rounds.ways([(2, 1)], list(rounds.FITS))]
    for row in found["rows"]:
        assert row["predicted"] <= 0.8 and 0.0 <= row["accuracy"] <= 1.0
        assert len(row["cuts"]) == row["rounds"] and row["cuts"][-1] == row["cut"]
        assert (row["fitted"] is None) == (row["fits"][-1] is None)
        # A round may find that the one before cut deep enough; the first never does.
        assert {row["fits"][0] is None, row["fit_cpu_s"] == 0.0} == {row["fit"] == "none"}
        assert row["cpu_s"] > row["fit_cpu_s"]
    plain, fitted = found["rows"][0], found["rows"][2]
    gained = found["summary"]["2 x 1 least_squares: points gained"]
    assert gained == pytest.approx(100 * (fitted["accuracy"] - plain["accuracy"]))
    assert not (tmp_path / "tables").exists()

    def again(*_: object) -> None:
        raise AssertionError("it was run again")

    monkeypatch.setattr(rounds, "run", again)
    rounds.main(asked)
    assert json.loads(out.read_text())["rows"] == found["rows"]
