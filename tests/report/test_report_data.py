"""What the report refuses to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hwprune.errors import ReportError
from hwprune.report.data import Measurement, ReportData, read_report
from tests.report.samples import least, network


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "red"},
        {"created": "2026-05-04T12:30:00"},  # no time zone
        {"budget_ms": 0},
        {"budget_ms": float("nan")},
        {"accuracy": {"dataset": "val", "dense": 97.8}},  # a percentage, not a fraction
        {"dense": {"value_ms": 2, "low_ms": 3, "high_ms": 4, "kind": "measured"}},
        {"dense": {"value_ms": 2, "low_ms": 1, "high_ms": 4, "kind": "guessed"}},
        {"dense": {"value_ms": 2, "low_ms": 1, "high_ms": 4, "kind": "emulated", "unit": "instructions"}},
        {"groups": [{"name": "g", "dense": 8, "kept": 9}]},
        {"format": 2},
    ],
)
def test_refused(change: dict[str, Any]) -> None:
    data = least().model_dump() | change
    with pytest.raises(ValidationError):
        ReportData.model_validate(data)


@pytest.mark.parametrize("change", [{"widths": [8, 8, 16]}, {"low": [1.0]}])
def test_inconsistent_staircase_is_refused(change: dict[str, Any]) -> None:
    stairs = {"label": "conv", "group": "g", "widths": [4, 8, 16], "latency_us": [1, 2, 3], "low": [1, 2, 3]}
    good = stairs | {"high": [1, 2, 3], "chosen": 8, "dense": 16}
    fine = ReportData.model_validate(least().model_dump() | {"staircases": [good]})
    assert fine.staircases[0].chosen == 8
    with pytest.raises(ValidationError, match="staircase 'conv'"):
        ReportData.model_validate(least().model_dump() | {"staircases": [good | change]})


def test_json_round_trip_keeps_order_and_digits() -> None:
    data = network(15, 22).model_copy(update={"dense": Measurement.exact(1 / 3, "measured")})
    again = ReportData.model_validate_json(data.model_dump_json())
    assert again == data
    assert list(again.provenance) == list(data.provenance)
    assert list(again.stage_seconds) == list(data.stage_seconds)


def test_unreadable_reports_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(ReportError, match=r"report\.json"):
        read_report(path)
    content = json.loads(least().model_dump_json())
    path.write_text(json.dumps(content | {"surplus": 1}))
    with pytest.raises(ReportError, match="surplus"):
        read_report(path)
    path.write_text("{")
    with pytest.raises(ReportError, match="the whole file"):
        read_report(path)
