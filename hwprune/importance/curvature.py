"""Curvature of a loss over pairs of units, and the order in which a quadratic model removes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Above it, vectors are kept instead of their products.
MOST_BYTES = 2 << 30


class Curvature:
    """Sum of ``a a'`` over vectors ``a`` of one entry per unit, in one matrix if it is small enough.

    Parameters
    ----------
    size
        Number of units.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._matrix = np.zeros((size, size)) if 8 * size**2 <= MOST_BYTES else None
        self._vectors: list[np.ndarray] = []
        self._joined: np.ndarray | None = None

    def add(self, vectors: np.ndarray) -> None:
        """More vectors, ``[count, size]``."""
        if self._matrix is not None:
            wide = vectors.astype(np.float64, copy=False)
            self._matrix += wide.T @ wide
        else:
            self._vectors.append(vectors.astype(np.float32).T)
            self._joined = None

    def column(self, unit: int) -> np.ndarray:
        """Sum of ``a a[unit]``, ``[size]``."""
        if self._matrix is not None:
            return self._matrix[:, unit]
        factor = self._factor()
        return (factor @ factor[unit]).astype(np.float64)

    def diagonal(self) -> np.ndarray:
        """Sum of squares, ``[size]``."""
        if self._matrix is not None:
            return self._matrix.diagonal().copy()
        return np.square(self._factor(), dtype=np.float64).sum(1)

    def _factor(self) -> np.ndarray:
        if self._joined is None:
            self._joined = np.concatenate(self._vectors, 1) if self._vectors else np.zeros((self.size, 1))
            self._vectors = [self._joined]
        return self._joined


def greedy_increments(
    slope: np.ndarray,
    column: Callable[[int], np.ndarray],
    diagonal: np.ndarray,
    *,
    cost: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Remove units one by one, always the one that raises ``sum slope + 1/2 sum sum H`` least.

    Parameters
    ----------
    slope
        Nonnegative linear term per unit, ``[size]``.
    column, diagonal
        Columns and diagonal of the curvature ``H``.
    cost
        What removing a unit saves: the rise is divided by it. Positive.

    Returns
    -------
    tuple
        The order of removal, and for each unit by how much the sum rose when it went. Over the first
        ``k`` units of the order these add up to the sum for that set.
    """
    # Q = H / 2 + diag(slope); removing s after the set M adds Q_ss + 2 sum of Q_sm over M.
    rise = slope + 0.5 * diagonal
    weight = np.ones_like(rise) if cost is None else cost
    going = np.ones(len(rise), dtype=bool)
    order = np.empty(len(rise), dtype=np.int64)
    increments = np.empty_like(rise)
    for place in range(len(rise)):
        unit = int(np.argmin(np.where(going, rise / weight, np.inf)))
        going[unit] = False
        order[place], increments[unit] = unit, rise[unit]
        rise = rise + column(unit)
    return order, increments
