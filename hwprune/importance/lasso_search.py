"""LASSO sets of a width that is asked for: exactly, or within a tolerance as the authors search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwprune.errors import CriterionError
from hwprune.importance.lasso_path import SWEEPS, exact_width, lasso, lasso_path


def exact_support(a: np.ndarray, b: np.ndarray, width: int) -> np.ndarray:
    """The same set as :func:`exact_width`, read off the whole path where the path has one of that size.

    Raises
    ------
    CriterionError
        The width is not between 0 and C.
    """
    on_path = lasso_path(a, b).of_width(width)
    return np.array(on_path, dtype=np.int64) if on_path else exact_width(a, b, width)


@dataclass(frozen=True)
class Searched:
    """A set of about some width, rising, and the penalty at which the LASSO has it."""

    support: np.ndarray
    penalty: float


def search_penalty(
    a: np.ndarray,
    b: np.ndarray,
    width: int,
    tolerance: float = 0.1,
    *,
    start: float | None = None,
    steps: int = 40,
) -> Searched:
    """The LASSO's set at the first penalty that leaves about ``width`` channels: the authors' search.

    The penalty is doubled until fewer channels than ``width`` are left, and bisected from there until there
    are ``width`` or a little more. What is found depends on where the search begins, and a set between
    two widths need not be the last one of its size; :func:`exact_width` has neither trait.

    Parameters
    ----------
    a, b
        See :func:`lasso`.
    width
        From 1 to C.
    tolerance
        How many more are good enough: a share of ``width`` below 1, else a number. 0 asks for ``width``.
    start
        First penalty (default: a thousandth of the one at which all channels are out). The one that was
        found for a layer is a good start for the next.
    steps
        Halvings at most. Where several channels enter at penalties that cannot be told apart, no penalty
        may serve; then it is the set of :func:`exact_width`, at the last penalty with fewer.

    Raises
    ------
    CriterionError
        The width is not between 1 and C, the tolerance is below 0, or the start is not above 0.

    References
    ----------
    He, Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017, released code.
    """
    top = float(np.abs(b).max(initial=0.0))
    high = 1e-3 * top if start is None else start
    if not 1 <= width <= len(b) or not tolerance >= 0.0 or (start is not None and not start > 0.0):
        raise CriterionError(
            f"a search for width {width} of {len(b)} channels, tolerance {tolerance}, from penalty {high}",
            hint="ask for 1 to all channels, a tolerance of 0 or more, and a penalty above 0",
        )
    most = width + int(tolerance * width * (1 + 1e-12) if tolerance < 1.0 else tolerance)

    beta = np.zeros(len(b))

    def left(penalty: float) -> np.ndarray:
        nonlocal beta
        beta = lasso(a, b, penalty, start=beta, sweeps=SWEEPS)
        return np.flatnonzero(beta)

    while high < top and len(left(high)) >= width:
        high *= 2
    low = 0.0
    for _ in range(steps if top > 0.0 else 0):
        middle = (low + high) / 2
        support = left(middle)
        if width <= len(support) <= most:
            return Searched(support, middle)
        if len(support) > most:
            low = middle
        else:
            high = middle
    return Searched(exact_width(a, b, width), high)
