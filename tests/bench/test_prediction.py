"""Known answers of the figures that the prediction benchmark reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.prediction_summary import model_summary, plot, summary


def network(model: str, measured: float, predicted: float, half: float = 0.05) -> dict[str, Any]:
    return {
        "model": model,
        "measured_ns": measured,
        "latency_ns": predicted,
        "low_ns": predicted * (1 - half),
        "high_ns": predicted * (1 + half),
        "interpolated": 0.25,
    }


ROWS = [
    *(network("one", 100.0 * n, 100.0 * n * (1.01 if n % 2 else 0.97)) for n in range(1, 10)),
    *(network("two", 1e3 * n, 1e3 * n * 1.1) for n in range(1, 4)),
]
ABOUT = {name: {"profile": {"seconds": seconds}} for name, seconds in (("one", 60.0), ("two", 30.0))}


def test_figures_of_a_model():
    found = model_summary([r for r in ROWS if r["model"] == "one"])
    assert found["configs"] == 9
    assert found["median_abs_error"] == pytest.approx(0.01)
    assert found["median_error"] == pytest.approx(0.01)
    assert found["p95_abs_error"] == pytest.approx(0.03)
    assert found["spearman"] == 1.0
    assert found["within_interval"] == 1.0
    assert (found["least_ms"], found["most_ms"]) == pytest.approx((1e-4, 9e-4))
    assert model_summary([r for r in ROWS if r["model"] == "two"])["within_interval"] == 0.0


def test_order_counts_within_models_only():
    swapped = [*ROWS, network("two", 4e3, 1.05e3)]
    found = summary(swapped, ABOUT)
    assert found["spearman_min"] == found["models"]["two"]["spearman"] == pytest.approx(-0.2)
    assert summary(ROWS, ABOUT)["spearman_min"] == 1.0


def test_summary_has_the_keys_that_are_asked_for(tmp_path: Path):
    found = summary(ROWS, ABOUT)
    assert (found["configs"], found["profile_s"]) == (12, 90.0)
    assert found["median_abs_error"] == pytest.approx(0.03)
    assert found["p95_abs_error"] == pytest.approx(0.1)
    plot(ROWS, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")
