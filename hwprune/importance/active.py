"""The inverse of a growing and shrinking submatrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import get_blas_funcs

#: ``A += factor * x y'`` in place.
_rank_one: Any = get_blas_funcs("ger", dtype=np.float64)
#: After so many changes the inverse is computed afresh, lest rounding adds up.
_REFRESH = 256


class ActiveInverse:
    """Inverse of ``K[S, S]`` while columns enter and leave ``S``.

    Parameters
    ----------
    matrix
        ``[C, C]``, symmetric and positive definite (float64).

    Attributes
    ----------
    members
        ``S``, in the order of the rows of :attr:`inverse`.
    """

    def __init__(self, matrix: np.ndarray) -> None:
        self._matrix = matrix
        # In the order of columns, as BLAS wants it; zeros beyond the members.
        self._buffer = np.zeros((16, 16), order="F")
        self._changes = 0
        self.members: list[int] = []

    @property
    def inverse(self) -> np.ndarray:
        """``[|S|, |S|]``."""
        size = len(self.members)
        return self._buffer[:size, :size]

    def add(self, column: int) -> None:
        """Take a column in."""
        size = len(self.members)
        if size == len(self._buffer):
            grown = np.zeros((2 * size, 2 * size), order="F")
            grown[:size, :size] = self._buffer
            self._buffer = grown
        cross = self._matrix[self.members, column]
        left = self.inverse @ cross
        # What the new column has that the others do not.
        rest = self._matrix[column, column] - cross @ left
        self.members.append(column)
        if rest <= 1e-10 * self._matrix[column, column] or self._due():
            self._refresh()
            return
        self._update(left, 1.0 / rest)
        self._buffer[:size, size] = self._buffer[size, :size] = -left / rest
        self._buffer[size, size] = 1.0 / rest

    def remove(self, column: int) -> None:
        """Let a column go."""
        at, last = self.members.index(column), len(self.members) - 1
        inverse = self.inverse
        if at != last:
            order = [*range(at), *range(at + 1, last + 1), at]
            inverse[:] = inverse[np.ix_(order, order)]
        del self.members[at]
        if self._due():
            self._buffer[last, :] = self._buffer[:, last] = 0.0
            self._refresh()
            return
        side, corner = self._buffer[:last, last].copy(), self._buffer[last, last]
        self._buffer[last, :] = self._buffer[:, last] = 0.0
        self._update(side, -1.0 / corner)

    def _update(self, vector: np.ndarray, factor: float) -> None:
        """Add ``factor * vector vector'`` in place."""
        padded = np.zeros(len(self._buffer))
        padded[: len(vector)] = vector
        self._buffer = _rank_one(factor, padded, padded, a=self._buffer, overwrite_a=True)

    def _due(self) -> bool:
        self._changes += 1
        return self._changes % _REFRESH == 0

    def _refresh(self) -> None:
        chosen = self._matrix[np.ix_(self.members, self.members)]
        self.inverse[:] = np.linalg.inv(chosen)


def with_ridge(matrix: np.ndarray, ridge: float) -> np.ndarray:
    """A symmetric copy with ``ridge`` times the mean of its diagonal on the diagonal: it has an inverse."""
    size = max(1, len(matrix))
    return (matrix + matrix.T) / 2 + np.eye(len(matrix)) * (ridge * float(np.trace(matrix)) / size)
