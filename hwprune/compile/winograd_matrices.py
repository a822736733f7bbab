"""The transforms of Winograd's minimal filtering, made from interpolation points.

F(m, r) computes m outputs of a filter with r taps from m + r - 1 products. After Toom and Cook:
both factors are seen as polynomials, evaluated at m + r - 2 points and at infinity, multiplied
there, and interpolated; transposing that algorithm turns the product into a correlation
(Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from math import prod

import numpy as np

#: Small points keep the rounding errors small.
POINTS = (0, 1, -1, 2, -2)
#: Outputs per tile and axis that have a transform here, for filters with three taps.
SIZES = (2, 4)
TAPS = 3


@cache
def transforms(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output, filter and input transform ``(AT, G, BT)`` of F(m, 3), in float64.

    ``y = AT @ ((G @ g) * (BT @ d))`` is the correlation of ``d`` (m + 2 values) with ``g`` (3 taps).
    """
    size = m + TAPS - 1
    points = POINTS[: size - 1]
    output = [[Fraction(p) ** i for p in points] + [Fraction(i == m - 1)] for i in range(m)]
    filters = [[Fraction(p) ** k / _others(points, p) for k in range(TAPS)] for p in points]
    filters.append([Fraction(k == TAPS - 1) for k in range(TAPS)])
    inputs = [_polynomial([q for q in points if q != p], size) for p in points]
    inputs.append(_polynomial(points, size))
    at, g, bt = (np.array([[float(v) for v in row] for row in rows]) for rows in (output, filters, inputs))
    return at, g, bt


def _others(points: Sequence[int], point: int) -> Fraction:
    return Fraction(prod(point - q for q in points if q != point))


def _polynomial(roots: Sequence[int], size: int) -> list[Fraction]:
    """Coefficients of the monic polynomial with these roots, constant term first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        for power, value in enumerate(coefficients):
            shifted[power] -= root * value
        coefficients = shifted
    return coefficients + [Fraction(0)] * (size - len(coefficients))
