"""The zero-padded copy of a convolution's input, written as vector stores.

Asking at every element whether it lies inside makes scalar code of a plain input's rows; here
only whole rows are asked, and each row is zeros, a copy, zeros.
"""

from __future__ import annotations

from math import prod
from typing import Any

from hwprune.compile.shapes import Shape
from hwprune.compile.tvm_api import Tensor, te, tirx


def padded_copy(
    source: Tensor, shape: Shape, top: int, left: int, lanes: int, threads: int, *, by_rows: bool = False
) -> Tensor:
    """Stage ``pad``: ``source`` at row ``top`` and column ``left`` of a zeroed tensor.

    Parameters
    ----------
    source
        ``[N, C, H, W]`` or packed ``[N, C, H, W, lanes]``.
    shape
        Physical shape of the result, which may also cut rows and columns off.
    by_rows
        Threads share out rows; else channels where there are enough of them.
    """

    def body(ins: Any, outs: Any) -> Any:
        return _copy(ins[0], outs[0], shape, top, left, lanes, threads, by_rows)

    return te.extern(shape, [source], body, name="pad", dtype="float32")


def _vector(base: Any, lanes: int) -> Any:
    return tirx.Ramp(base, 1, lanes) if lanes > 1 else base


def _zeros(lanes: int) -> Any:
    zero = tirx.const(0.0, "float32")
    return tirx.Broadcast(zero, lanes) if lanes > 1 else zero


def _loop(name: str, extent: int, body: Any, kind: Any = None) -> Any:
    """A loop over ``body(variable)``; nothing for an empty one."""
    if extent <= 0:
        return None
    var = tirx.Var(name, "int32")
    return tirx.For(var, 0, extent, tirx.ForKind.SERIAL if kind is None else kind, body(var))


def _sequence(parts: list[Any]) -> Any:
    present = [part for part in parts if part is not None]
    return present[0] if len(present) == 1 else tirx.SeqStmt(present)


def _copy(x: Any, y: Any, shape: Shape, top: int, left: int, lanes: int, threads: int, by_rows: bool) -> Any:
    packed = len(shape) == 5
    height, width = (int(d) for d in x.shape[2:4])
    row_columns = min(width, shape[3] - left)
    # A vector is one position of a packed row, or ``lanes`` columns of a plain one.
    step = lanes if not packed and row_columns >= lanes else 1
    vector = lanes if packed or step > 1 else 1

    def place(column: Any) -> tuple[Any, ...]:
        return (column, _vector(0, vector)) if packed else (_vector(column, vector),)

    def zero_columns(n: Any, c: Any, h: Any, begin: int, end: int) -> list[Any]:
        """Zero columns ``begin`` to ``end``, the last vectors overlapping."""
        if not packed and end - begin < step:
            return [_loop("z", end - begin, lambda z: tirx.BufferStore(y, _zeros(1), [n, c, h, begin + z]))]
        whole = (end - begin) // step

        def clear(column: Any) -> Any:
            return tirx.BufferStore(y, _zeros(vector), [n, c, h, *place(column)])

        parts = [_loop("z", whole, lambda z: clear(begin + z * step))]
        if (end - begin) % step:
            parts.append(clear(end - step))
        return parts

    def copy_columns(n: Any, c: Any, h: Any) -> list[Any]:
        def move(column: Any) -> Any:
            value = tirx.BufferLoad(x, [n, c, h - top, *place(column)])
            return tirx.BufferStore(y, value, [n, c, h, *place(left + column)])

        parts = [_loop("w", row_columns // step, lambda w: move(w * step))]
        if row_columns % step:
            parts.append(move(row_columns - step))
        return parts

    def row(n: Any, c: Any, h: Any) -> Any:
        inside = _sequence(
            [
                *zero_columns(n, c, h, 0, left),
                *copy_columns(n, c, h),
                *zero_columns(n, c, h, left + row_columns, shape[3]),
            ]
        )
        checks = ([h >= top] if top else []) + ([h < height + top] if shape[2] > height + top else [])
        if not checks:
            return inside
        return tirx.IfThenElse(tirx.all(*checks), inside, _sequence(zero_columns(n, c, h, 0, shape[3])))

    parallel = tirx.ForKind.PARALLEL if threads > 1 and prod(shape) >= 1 << 16 else None
    if by_rows and parallel is not None:

        def rows(n: Any, h: Any) -> Any:
            return _loop("c", shape[1], lambda c: row(n, c, h))

        return _loop("n", shape[0], lambda n: _loop("h", shape[2], lambda h: rows(n, h), parallel))
    outer = parallel if shape[1] >= 4 * threads else None
    inner = parallel if outer is None else None

    def channel(n: Any, c: Any) -> Any:
        return _loop("h", shape[2], lambda h: row(n, c, h), inner)

    return _loop("n", shape[0], lambda n: _loop("c", shape[1], lambda c: channel(n, c), outer))
