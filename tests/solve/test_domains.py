"""Widths are aligned, spread and complete; the best units are kept."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hwprune.errors import CriterionError, PlanError
from hwprune.solve.domains import aligned_widths, domain_values, keep_best


@given(
    st.integers(1, 3000),
    st.integers(1, 40),
    st.sampled_from([1, 2, 4, 6, 8, 16, 32]),
    st.floats(0, 1),
    st.integers(1, 20),
)
def test_aligned_widths(size: int, channels: int, multiple: int, minimum: float, steps: int) -> None:
    widths, exempt = aligned_widths(size, channels, multiple, minimum=minimum, steps=steps)
    assert widths[-1] == size and list(widths) == sorted(set(widths)) and widths[0] >= 1
    assert len(widths) <= steps
    assert all(w * channels % multiple == 0 and w >= minimum * size - 1e-6 for w in widths[:-1])
    assert (exempt is None) == (size * channels % multiple == 0)
    every = [w for w in range(1, size) if w * channels % multiple == 0 and w >= minimum * size - 1e-9]
    if len(every) < steps:
        assert list(widths[:-1]) == every  # nothing is left out without need
    elif steps > 1:
        assert widths[0] == every[0] and len(widths) == steps
        gaps = np.diff([([*every, size]).index(w) for w in widths])
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("arguments", "widths", "exempt"),
    [
        ((64, 1, 16), (16, 32, 48, 64), None),
        ((12, 1, 8), (8, 12), "dense width 12 is not a multiple of 8"),
        ((5, 1, 8), (5,), "dense width 5 is not a multiple of 8"),
        ((6, 4, 8), (2, 4, 6), None),
        ((3, 16, 16), (1, 2, 3), None),
        ((30, 1, 3), (3, 6, 12, 15, 18, 21, 27, 30), None),
        ((1, 1, 1), (1,), None),
    ],
)
def test_known_widths(arguments: tuple[int, int, int], widths: tuple[int, ...], exempt: str | None) -> None:
    assert aligned_widths(*arguments) == (widths, exempt)


def test_impossible_parameters_are_named() -> None:
    with pytest.raises(PlanError, match="multiple 0"):
        aligned_widths(8, 1, 0)
    with pytest.raises(PlanError, match=r"minimum 1\.5"):
        aligned_widths(8, 1, 1, minimum=1.5)


SCORES = arrays(np.float32, st.integers(1, 60), elements=st.integers(-3, 3).map(float))


@given(SCORES, st.data())
def test_keep_best_is_the_stable_top(scores: np.ndarray, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, scores.size))
    kept = keep_best(scores, width)
    reference = sorted(sorted(range(scores.size), key=lambda i: (-scores[i], i))[:width])
    assert list(kept) == reference
    assert domain_values(scores, [width])[0] == sum(float(scores[i]) for i in kept)
    if width > 1:
        assert set(keep_best(scores, width - 1)) < set(kept)


@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1e6)))
def test_values_never_shrink_with_the_width(scores: np.ndarray) -> None:
    values = domain_values(scores, range(1, scores.size + 1))
    assert all(a <= b for a, b in pairwise(values))


def test_bad_scores_and_widths_are_refused() -> None:
    with pytest.raises(CriterionError, match="first: unit 1"):
        keep_best(np.array([1.0, np.nan, np.inf]), 1)
    with pytest.raises(CriterionError, match="shape"):
        domain_values(np.ones((2, 2)), [1])
    for width in (0, 4):
        with pytest.raises(PlanError, match=f"keep {width} of 3"):
            keep_best(np.ones(3), width)
