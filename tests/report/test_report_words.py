"""Numbers as text, and the verdict in every case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune.report import words
from hwprune.report.data import Accuracy, Measurement, ReportData
from tests.report.samples import least, measured, network


def say(data: ReportData) -> str:
    return words.verdict(data).sentence.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.9, "1.90"),
        (12.345, "12.3"),
        (9.996, "10.0"),
        (999.6, "1,000"),
        (0.0184, "0.0184"),
        (1234.5, "1,234"),
        (0, "0"),
        (-0.5, "-0.500"),
    ],
)
def test_number(value: float, expected: str) -> None:
    assert words.number(value) == expected


def test_tiny_numbers_have_an_exponent() -> None:
    assert words.number(2.44e-6).replace("\u00a0", " ") == "2.4 × 10⁻⁶"


@given(st.floats(min_value=1e-4, max_value=1e6))
def test_number_is_close_to_what_it_shows(value: float) -> None:
    assert float(words.number(value).replace(",", "")) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("value", "expected"), [(0.42, "0.42 s"), (12.3, "12.3 s"), (119.7, "2 min 00 s"), (3725, "62 min 05 s")]
)
def test_seconds(value: float, expected: str) -> None:
    assert words.seconds(value).replace("\u00a0", " ") == expected


def test_percent_never_rounds_something_to_nothing() -> None:
    assert words.percent(0.978).replace("\u00a0", " ") == "97.8 %"
    assert words.percent(0.00001).replace("\u00a0", " ") == "< 0.1 %"
    assert words.percent(0.0) == "0.0\u00a0%"


def test_met() -> None:
    data = network(4, 6)
    assert say(data) == (
        "This model runs in 1.90 ms on Intel Xeon Platinum 8481C, 2.11× faster than dense (4.00 ms); "
        "accuracy 97.8 % on digits test (dense 98.1 %). Budget 2.00 ms: met."
    )
    assert words.verdict(data).tone == "good"


def test_met_on_the_edge_says_so() -> None:
    data = least().model_copy(update={"measured": measured(1.99, 0.02)})
    assert say(data).endswith("Budget 2.00 ms: met, though the interval reaches 2.03 ms.")


def test_missed() -> None:
    data = least().model_copy(update={"measured": measured(2.31)})
    result = words.verdict(data)
    assert say(data) == (
        "This model runs in 2.31 ms on host, 1.73× faster than dense (4.00 ms). "
        "Budget 2.00 ms: missed by 0.31 ms (15.5 %)."
    )
    assert (result.tone, result.badge) == ("bad", "Budget missed")


def test_narrowly_missed_numbers_differ() -> None:
    data = least().model_copy(update={"measured": measured(2.0004, 0.01)})
    assert "runs in 2.0004 ms" in say(data)
    assert (
        "Budget 2.0000 ms: missed by 0.00040 ms (< 0.1 %), though the interval reaches down to 1.98 ms"
        in say(data)
    )


def test_slower_than_dense_within_the_budget() -> None:
    data = least().model_copy(update={"measured": measured(4.4), "budget_ms": 5.0})
    result = words.verdict(data)
    assert "10.0 % slower than dense (4.00 ms): pruning did not pay on this device" in say(data)
    assert say(data).endswith("Budget 5.00 ms: met.")
    assert (result.tone, result.badge) == ("bad", "Slower than dense")


def test_slower_and_missed() -> None:
    data = least().model_copy(update={"measured": measured(4.4)})
    assert words.verdict(data).badge == "Budget missed and slower than dense"


def test_overlapping_intervals_claim_no_gain() -> None:
    data = least().model_copy(update={"measured": measured(3.96, 0.02), "budget_ms": 5.0})
    assert "no measurable difference from dense" in say(data)
    assert "faster" not in say(data)
    assert words.verdict(data).tone == "open"


def test_prediction_is_never_called_measured() -> None:
    data = least()
    result = words.verdict(data)
    assert "1.87 ms (predicted, not measured)" in say(data)
    assert "faster" not in say(data), "a predicted time is not divided by a measured one"
    assert say(data).endswith("Budget 2.00 ms: met as predicted.")
    assert result.tone == "open"
    both = data.model_copy(update={"dense_predicted": Measurement.exact(3.74)})
    assert "2.00× faster than dense (3.74 ms)" in say(both)


def test_accuracy_names_the_last_stage_reached() -> None:
    stages = Accuracy(dataset="val", dense=0.9, after_pruning=0.5, after_recalibration=0.8)
    assert "accuracy 80.0 % on val (dense 90.0 %)" in say(least().model_copy(update={"accuracy": stages}))
    only_dense = Accuracy(dataset="val", dense=0.9)
    assert "accuracy" not in say(least().model_copy(update={"accuracy": only_dense}))
