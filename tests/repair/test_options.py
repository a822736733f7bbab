"""Repairs in one word."""

from __future__ import annotations

import pytest

from hwprune.errors import UsageError
from hwprune.repair.options import RepairOptions, asked_repair, read_repair


@pytest.mark.parametrize(
    ("options", "label"),
    [
        (RepairOptions(), "least_squares"),
        (RepairOptions(method="scales", examples=512), "scales"),
        (RepairOptions(ridge=0.25, recalibrate=False, positions=7), None),
        (RepairOptions(towards_zero=True, seed=3, memory_gb=0.5), None),
    ],
)
def test_a_label_is_read_again(options: RepairOptions, label: str | None) -> None:
    assert read_repair(options.label) == options
    assert label is None or options.label == label
    assert asked_repair(options.label, [1]) == options == asked_repair(options, [1])


def test_labels_say_what_is_not_usual() -> None:
    assert read_repair("least-squares:examples=128:ridge=1e-2") == RepairOptions(examples=128, ridge=0.01)
    assert RepairOptions(examples=128, ridge=0.01).label == "least_squares:ridge=0.01:examples=128"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("lstsq", "option 'method' of the repair is 'lstsq'"),
        ("", "option 'method' of the repair is ''"),
        ("scales:", "'' behind the repair 'scales' is no option"),
        ("scales:ridge=1:ridge=2", "'ridge=2' behind the repair 'scales' is given twice"),
        ("scales:method=none", "given twice"),
        ("scales:power=2", "option 'power' of the repair"),
        ("least_squares:ridge=-1", "option 'ridge' of the repair is '-1'"),
    ],
)
def test_words_that_are_no_repair(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        read_repair(text)


def test_a_repair_needs_data() -> None:
    assert asked_repair(None, None) is None
    with pytest.raises(UsageError, match="a repair needs data"):
        asked_repair("scales", None)
