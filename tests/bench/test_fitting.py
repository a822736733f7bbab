"""The benchmark of fits, on a tiny network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.fitting import LIMIT_MB, main, measure, summary
from bench.scoring import Setting

TINY = Setting(network="tests.small:Small", shape=(1, 8, 8), classes=4, images=6, batch=4)


def test_rows_have_time_and_memory() -> None:
    rows = [measure(method, TINY) for method in ("least_squares", "scales")]
    for row in rows:
        assert row["error"] is None and row["layers"] == 3 and row["seconds"] > 0
        assert 50 < row["before_mb"] <= row["peak_mb"] < LIMIT_MB
        assert row["fit_mb"] == row["peak_mb"] - row["before_mb"]
    assert summary(rows, TINY)["below_4_gb"]
    assert not summary([{**rows[0], "peak_mb": 5000.0}], TINY)["below_4_gb"]
    assert summary([rows[0], {**rows[1], "method": "scales:memory_gb=8", "peak_mb": 5e3}], TINY)["below_4_gb"]
    failed = summary([*rows, {"network": "x", "method": "scales", "error": "not done"}], TINY)
    assert failed["failed"] == ["x scales"] and not failed["below_4_gb"]


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fitting.json"
    tiny = ["--networks", TINY.network, "--shape", "1x8x8", "--classes", "4", "--images", "6"]
    main([*tiny, "--methods", "least_squares", "--limit-s", "0.05", "--out", str(out)])
    assert "not done after 0.05 s" in capsys.readouterr().err
    assert json.loads(out.read_text())["summary"]["failed"] == ["tests.small:Small least_squares"]
    main([*tiny, "--methods", "least_squares", "--out", str(out), "--resume"])
    first = json.loads(out.read_text())["rows"]
    assert first[0]["error"] is None and first[0]["layers"] == 3
    # A row that is there is kept: seconds are never twice the same.
    main([*tiny, "--methods", "least_squares", "--out", str(out), "--resume"])
    assert json.loads(out.read_text())["rows"] == first
