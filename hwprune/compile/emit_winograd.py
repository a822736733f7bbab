"""TE stages of Winograd convolution.

``pad`` is the zero-padded input; ``down`` and ``spectrum`` transform its tiles along columns and
along rows; ``acc`` holds the products over channels; ``up`` and ``image`` transform them back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwprune.compile.emit_conv import padded_input, with_bias
from hwprune.compile.emitter import Emitter, Value
from hwprune.compile.layout import winograd_of
from hwprune.compile.shapes import Shape
from hwprune.compile.tvm_api import te, tirx
from hwprune.compile.winograd_matrices import transforms
from hwprune.latency.kernel import KernelOp


def winograd_conv2d(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    g, plan = winograd_of(e.spec, op, e.shapes, e.target, e.choice)
    at, _, bt = transforms(plan.m)
    m, size, lanes, t = plan.m, plan.size, e.lanes, plan.block_tile
    rows, cols = plan.tile_rows, plan.tile_cols
    weight, bias = e.weight(op, 1), e.weight(op, 2)
    assert weight is not None
    e.family, e.winograd, e.weight_name = "winograd", plan, f"in{op.args[1]}"
    data = padded_input(e, e.packed(e.values[op.args[0]]), g.padding[0], g.padding[1], plan.padded)
    down = te.compute(
        (g.batch, plan.in_blocks, rows, cols, size, size, lanes),
        lambda n, c, y, x, i, j, v: _combine(bt, i, lambda k: data[n, c, y * m + k, x * m + j, v]),
        name="down",
    )
    spectrum = te.compute(
        (size, size, g.batch, plan.in_blocks, rows, cols, lanes),
        lambda i, j, n, c, y, x, v: _combine(bt, j, lambda k: down[n, c, y, x, i, k, v]),
        name="spectrum",
    )
    block, lane = te.reduce_axis((0, plan.in_blocks), "ic"), te.reduce_axis((0, lanes), "ii")
    acc = te.compute(
        (size, size, g.batch, plan.out_blocks, rows, cols, lanes),
        lambda i, j, n, o, y, x, v: te.sum(
            spectrum[i, j, n, block, y, x, lane]
            * weight[(i * size + j) * (plan.out_blocks // t) + o // t, block, lane, o % t * lanes + v],
            axis=[block, lane],
        ),
        name="acc",
    )
    up = te.compute(
        (g.batch, plan.out_blocks, rows, cols, m, size, lanes),
        lambda n, o, y, x, i, j, v: _combine(at, i, lambda k: acc[k, j, n, o, y, x, v]),
        name="up",
    )
    image = te.compute(
        (g.batch, plan.out_blocks, rows * m, cols * m, lanes),
        lambda n, o, h, w, v: _combine(at, w % m, lambda k: up[n, o, h // m, w // m, h % m, k, v]),
        name="image",
    )
    return with_bias(e, image, bias, shape)


def _combine(matrix: np.ndarray, row: Any, value: Any) -> Any:
    """``matrix[row] @ value`` for a row that becomes a constant when its loop is unrolled."""
    total: Any = None
    for k, column in enumerate(matrix.T):
        if column.any():
            term = _pick(column, row) * value(k)
            total = term if total is None else total + term
    return total


def _pick(values: np.ndarray, position: Any) -> Any:
    """``values[position]`` as nested selections."""
    result: Any = tirx.const(float(values[-1]), "float32")
    for i in reversed(range(len(values) - 1)):
        result = tirx.Select(position == i, tirx.const(float(values[i]), "float32"), result)
    return result
