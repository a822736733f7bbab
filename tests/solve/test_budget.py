"""Budgets as people write them."""

from __future__ import annotations

import pytest

from hwprune.errors import BudgetError, BudgetMetError
from hwprune.solve.budget import parse_budget

DENSE = 20e6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50%", 10e6),
        (" 12.5 % ", 2.5e6),
        ("8ms", 8e6),
        ("8 ms", 8e6),
        ("8MS", 8e6),
        ("800us", 800e3),
        ("800µs", 800e3),
        ("800μs", 800e3),
        ("0.01s", 10e6),
        ("5000ns", 5000.0),
        ("1e3us", 1e6),
        (".5", 10e6),
        (0.5, 10e6),
        ("0.25", 5e6),
    ],
)
def test_forms(text: str | float, expected: float) -> None:
    assert parse_budget(text, DENSE) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fast", "cannot be read"),
        ("", "cannot be read"),
        ("8 m s", "cannot be read"),
        ("ms", "cannot be read"),
        ("1,5ms", "cannot be read"),
        (True, "cannot be read"),
        (float("nan"), "cannot be read"),
        (float("inf"), "cannot be read"),
        ("8", "no unit"),
        (8, "no unit"),
        ("8min", "unknown unit 'min'"),
        ("8msec", "unknown unit 'msec'"),
        ("0%", "not above zero"),
        ("-5ms", "not above zero"),
        (0, "not above zero"),
        ("1e999ms", "not above zero"),
        ("1e-400s", "not above zero"),
    ],
)
def test_malformed_ones_are_refused_with_examples(text: str | float, words: str) -> None:
    with pytest.raises(BudgetError, match=words) as error:
        parse_budget(text, DENSE)
    assert not isinstance(error.value, BudgetMetError)
    assert "50%" in str(error.value) and "8ms" in str(error.value)


@pytest.mark.parametrize("text", ["100%", "150%", 1, 1.0, "20ms", "1s"])
def test_a_budget_that_is_met_already_says_so(text: str | float) -> None:
    with pytest.raises(BudgetMetError, match=r"dense model already meets.*20 ms"):
        parse_budget(text, DENSE)


def test_targets_that_count_something_else() -> None:
    assert parse_budget("50%", 1000.0, unit="cycles") == 500.0
    assert parse_budget("90 cycles", 1000.0, unit="cycles") == 90.0
    with pytest.raises(BudgetError, match=r"'ms'.*counts cycles"):
        parse_budget("8ms", 1000.0, unit="cycles")
    with pytest.raises(BudgetMetError, match="1000 cycles"):
        parse_budget("2000cycles", 1000.0, unit="cycles")
