"""Which channel unit every position of a dimension belongs to: runs of axes, merged by union.

An :class:`Axis` is a set of units. A dimension's layout is a sequence of pieces ``(axis, inner)``:
all units of ``axis`` in order, each on ``inner`` consecutive positions. Learning that two ranges
are the same channels rewrites one axis in terms of others (split it, coarsen it, or point it to
its equal), so lists of indices never exist and every dimension that mentioned the axis follows.
This is union-find whose links carry a run each instead of a single element.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence


class Axis:
    """A set of ``size`` units; ``parts`` is its rewriting in terms of other axes, if any."""

    __slots__ = ("parts", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.parts: Layout | None = None


Piece = tuple[Axis, int]
Layout = tuple[Piece, ...]
"""Pieces ``(axis, inner)`` that fill a dimension from position 0 on."""


def length(layout: Layout) -> int:
    """Positions that a layout fills."""
    return sum(axis.size * inner for axis, inner in layout)


def resolve(layout: Sequence[Piece]) -> Layout:
    """Rewrite a layout in axes that have no further parts (with path compression)."""
    if all(axis.parts is None for axis, _ in layout):
        return tuple(layout)
    out: list[Piece] = []
    for axis, inner in layout:
        if axis.parts is None:
            out.append((axis, inner))
        else:
            axis.parts = resolve(axis.parts)
            out.extend((part, inner * k) for part, k in axis.parts)
    return tuple(out)


def scale(layout: Layout, factor: int) -> Layout:
    """Every unit on ``factor`` times as many consecutive positions."""
    return tuple((axis, inner * factor) for axis, inner in layout)


def unify(first: Layout, second: Layout) -> bool:
    """Make equal positions of two layouts the same unit.

    Returns
    -------
    bool
        False if the runs cannot be lined up (units of 3 positions against units of 2 that do not
        divide): the caller must then keep all channels of both. True otherwise.
    """
    left, right = deque(resolve(first)), deque(resolve(second))
    while left and right:
        left.extendleft(reversed(resolve((left.popleft(),))))
        right.extendleft(reversed(resolve((right.popleft(),))))
        (x, i), (y, j) = left[0], right[0]
        if x is y and i == j:
            left.popleft()
            right.popleft()
        elif x is y:
            return False
        elif _trim(x, i, y.size * j) or _trim(y, j, x.size * i):
            continue
        elif i != j:
            common = math.lcm(i, j)
            if not (_coarsen(x, common // i) and _coarsen(y, common // j)):
                return False
        else:
            y.parts = ((x, 1),)
            left.popleft()
            right.popleft()
    return not left and not right


def _trim(axis: Axis, inner: int, positions: int) -> bool:
    """Split an axis that is longer than ``positions`` there, if that is between two units."""
    at, rest = divmod(positions, inner)
    if rest or at >= axis.size:
        return False
    axis.parts = ((Axis(at), 1), (Axis(axis.size - at), 1))
    return True


def _coarsen(axis: Axis, factor: int) -> bool:
    """Make ``factor`` consecutive units one; split off what does not divide at the end."""
    if factor == 1:
        return True
    if axis.size < factor:
        return False
    whole = axis.size // factor
    rest = axis.size - whole * factor
    axis.parts = ((Axis(whole), factor), (Axis(rest), 1)) if rest else ((Axis(whole), factor),)
    return True
