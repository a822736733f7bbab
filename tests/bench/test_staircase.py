"""What the staircase benchmark concludes from times that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from bench.staircase import layer, layer_summary, summary
from hwprune.compile.shapes import infer_shapes


def rows(times: dict[int, float], noise: float = 0.001) -> list[dict[str, Any]]:
    return [
        {"layer": "a", "width": w, "us": t, "round_minima_us": [t, t * (1 + noise)] * 2}
        for w, t in times.items()
    ]


def staircase(**changes: float) -> dict[int, float]:
    """10 us for every block of 16, plus changes by width (``w20=...``)."""
    times = {w: 10.0 * -(-w // 16) for w in range(8, 81)}
    return times | {int(key[1:]): value for key, value in changes.items()}


def test_a_clean_staircase() -> None:
    found = layer_summary(rows(staircase()), 16)
    assert found["monotone_violations"] == []
    assert found["worst_unaligned_over_next_multiple"] == 1.0
    assert found["above_1.1"] == []
    assert found["steps"] == [17, 33, 49, 65]
    assert found["noise"] == 0.01


def test_a_dear_unaligned_width_is_found() -> None:
    found = layer_summary(rows(staircase(w20=25.0)), 16)
    assert found["worst_unaligned_over_next_multiple"] == pytest.approx(1.25)
    assert found["worst_unaligned_width"] == 20
    assert found["above_1.1"] == [20]
    assert found["steps"] == [17, 20, 33, 49, 65]  # 25 behind 20 rises, 20 behind 25 does not


def test_a_fall_between_multiples_counts_only_beyond_noise() -> None:
    falling = staircase(w64=29.0)  # 3 % less than at 48
    assert layer_summary(rows(falling), 16)["monotone_violations"] == [[48, 64, pytest.approx(29 / 30)]]
    assert layer_summary(rows(falling, noise=0.05), 16)["monotone_violations"] == []


def test_widths_without_a_next_multiple_are_left_out() -> None:
    found = layer_summary(rows({16: 10.0, 17: 99.0}), 16)
    assert found["worst_unaligned_over_next_multiple"] is None


def test_the_summary_takes_the_worst_layer() -> None:
    both = [*rows(staircase()), *({**r, "layer": "b"} for r in rows(staircase(w20=25.0, w64=29.0)))]
    found = summary(both, 16)
    assert found["monotone_violations"] == 1
    assert found["worst_unaligned_over_next_multiple"] == pytest.approx(40 / 29)
    assert list(found["layers"]) == ["a", "b"]


@pytest.mark.parametrize(("shape", "size"), [((64, 28, 3), 28), ((256, 14, 1), 14)])
def test_layers_keep_the_size_of_the_map(shape: tuple[int, int, int], size: int) -> None:
    assert infer_shapes(layer(*shape, 40))[-1] == (1, 40, size, size)
