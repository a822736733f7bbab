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
from collections.abc import Iterable, Sequence


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
    for axis, _ in layout:
        _compress(axis)
    return tuple(_substitute(layout))


def _compress(axis: Axis) -> None:
    """Make all links below an axis direct. A loop: links of a deep network form long chains."""
    waiting = [axis]
    while waiting:
        top = waiting[-1]
        deeper = [part for part, _ in top.parts or () if part.parts is not None and not _is_direct(part)]
        if deeper:
            waiting.extend(deeper)
            continue
        if top.parts is not None and not _is_direct(top):
            top.parts = tuple(_substitute(top.parts))
        waiting.pop()


def _is_direct(axis: Axis) -> bool:
    return all(part.parts is None for part, _ in axis.parts or ())


def _substitute(layout: Iterable[Piece]) -> Iterable[Piece]:
    for axis, inner in layout:
        if axis.parts is None:
            yield axis, inner
        else:
            for part, k in axis.parts:
                yield part, inner * k


def scale(layout: Layout, factor: int) -> Layout:
    """Every unit on ``factor`` times as many consecutive positions."""
    return tuple((axis, inner * factor) for axis, inner in layout)


def divide(layout: Layout, at: int) -> tuple[Layout, Layout, Layout]:
    """Take a layout apart between positions ``at - 1`` and ``at``.

    Returns
    -------
    left, right, torn
        ``torn`` is the unit that has positions on both sides, if there is one: it has to stay, and
        so have the axes that stand for its positions in ``left`` and ``right``: they are the
        last of ``left`` and the first of ``right``.
    """
    left: list[Piece] = []
    rest, room = deque(resolve(layout)), at
    while rest and room:
        rest.extendleft(reversed(resolve((rest.popleft(),))))  # an earlier step may have split it
        axis, inner = rest[0]
        units, over = divmod(room, inner)
        if axis.size * inner <= room:
            left.append(rest.popleft())
            room -= axis.size * inner
        elif units:
            axis.parts = ((Axis(units), 1), (Axis(axis.size - units), 1))
        elif axis.size > 1:
            axis.parts = ((Axis(1), 1), (Axis(axis.size - 1), 1))
        else:
            rest.popleft()
            return (
                resolve((*left, (Axis(over), 1))),
                resolve(((Axis(inner - over), 1), *rest)),
                ((axis, inner),),
            )
    return resolve(left), resolve(tuple(rest)), ()


def period(layout: Layout, times: int) -> Layout | None:
    """The layout of which ``layout`` is ``times`` repetitions, None if it is not."""
    pieces = resolve(layout)
    count, rest = divmod(len(pieces), times)
    if rest or times < 2 or pieces[:count] * times != pieces:
        return None
    return pieces[:count]


def unify(first: Layout, second: Layout) -> bool:
    """Make equal positions of two layouts the same unit.

    Returns
    -------
    bool
        False if a run meets itself at another offset (which would make nearly all of its units
        one): the caller must then keep all channels of both. True otherwise.
    """
    left, right = deque(resolve(first)), deque(resolve(second))
    while left and right:
        left.extendleft(reversed(resolve((left.popleft(),))))
        right.extendleft(reversed(resolve((right.popleft(),))))
        (x, i), (y, j) = left[0], right[0]
        if x is y and i == j:
            left.popleft()
            right.popleft()
        elif x.size == 1 and y.size == 1:
            _meet(left, right)
        elif x is y:
            return False
        elif _trim(x, i, y.size * j) or _trim(y, j, x.size * i):
            continue
        elif i != j:
            common = math.lcm(i, j)
            blocks = min(x.size * i, y.size * j) // common
            if blocks:
                _coarsen(x, common // i, blocks)
                _coarsen(y, common // j, blocks)
            else:
                _isolate(x)
                _isolate(y)
        else:
            y.parts = ((x, 1),)
            left.popleft()
            right.popleft()
    return not left and not right


def _meet(left: deque[Piece], right: deque[Piece]) -> None:
    """Two single units are one; what the longer has over is left for the next piece."""
    (x, i), (y, j) = left.popleft(), right.popleft()
    if x is not y:
        y.parts = ((x, 1),)
    if i > j:
        left.appendleft((x, i - j))
    elif j > i:
        right.appendleft((x, j - i))


def _trim(axis: Axis, inner: int, positions: int) -> bool:
    """Split an axis that is longer than ``positions`` there, if that is between two units."""
    at, rest = divmod(positions, inner)
    if rest or at >= axis.size:
        return False
    axis.parts = ((Axis(at), 1), (Axis(axis.size - at), 1))
    return True


def _isolate(axis: Axis) -> None:
    """Split off the first unit."""
    if axis.size > 1:
        axis.parts = ((Axis(1), 1), (Axis(axis.size - 1), 1))


def _coarsen(axis: Axis, factor: int, blocks: int) -> None:
    """Make the first units ``blocks`` units of ``factor`` each; split off the rest."""
    if factor == 1:
        return
    rest = axis.size - blocks * factor
    axis.parts = ((Axis(blocks), factor), (Axis(rest), 1)) if rest else ((Axis(blocks), factor),)
