"""The benchmark of scoring, on a tiny network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import scoring
from bench.scoring import Setting, main, measure, row_of, summary

TINY = Setting(network="tests.small:Small", shape=(1, 8, 8), classes=4, images=6, batch=4)


def test_rows_have_time_and_memory() -> None:
    rows = [measure(name, TINY) for name in ("l2", "taylor2019:form=gate")]
    for row, data in zip(rows, ("none", "labelled"), strict=True):
        assert row["data"] == data and row["error"] is None
        assert row["seconds"] > 0 and row["units"] == 64
        # An interpreter with torch, and no more than a few layers beside it.
        assert 50 < row["before_mb"] <= row["peak_mb"] < scoring.LIMIT_MB
    found = summary(rows, TINY)
    assert found["below_8_gb"] and found["failed"] == []
    assert found["slowest_s"] == max(row["seconds"] for row in rows)
    assert not summary([{**rows[0], "peak_mb": 9000.0}], TINY)["below_8_gb"]


def test_all_images_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = scoring.Images.__iter__

    def counted(self):  # type: ignore[no-untyped-def]
        for batch in real(self):
            seen.append(len(batch[0]))
            yield batch

    setting = replace(TINY, network="tests.small:Other")  # has no BatchNorm to settle first
    monkeypatch.setattr(scoring.Images, "__iter__", counted)
    measure("taylor2019", setting)
    assert seen == [4, 2]


def test_a_criterion_that_fails_is_a_row() -> None:
    row = measure("bn_scale", replace(TINY, network="tests.small:Other"))
    assert row["seconds"] is None and "needs BatchNorm layers" in row["error"]
    found = summary([row], TINY)
    assert found["failed"] == ["bn_scale"] and not found["below_8_gb"]


def test_a_process_of_its_own_that_takes_too_long() -> None:
    row = row_of("l1", TINY, 0.05)
    assert row["error"] == "not done after 0.05 s" and row["data"] == "none"


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scoring.json"
    tiny = ["--network", TINY.network, "--shape", "1x8x8", "--classes", "4", "--images", "6", "--batch", "4"]
    main([*tiny, "--criteria", "l1", "--out", str(out)])
    assert "below_8_gb: True" in capsys.readouterr().out
    first = json.loads(out.read_text())
    assert [row["criterion"] for row in first["rows"]] == ["l1"] and first["environment"]["device"]
    # A row that is there is kept: seconds are never twice the same.
    main([*tiny, "--criteria", "l1", "--out", str(out), "--resume", "--json"])
    again = json.loads(capsys.readouterr().out)
    assert again["rows"] == first["rows"]
    assert scoring.earlier(out, replace(TINY, images=7)) == {}
