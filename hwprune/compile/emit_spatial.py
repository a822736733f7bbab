"""TE stages that move rows and columns: padding, nearest upsampling, spreading, [N,C] as a map."""

from __future__ import annotations

from typing import Any

from hwprune.compile.emitter import Emitter, Value
from hwprune.compile.shapes import Shape, integers, number
from hwprune.compile.tvm_api import tirx
from hwprune.latency.kernel import KernelOp


def upsample_nearest(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x = e.packed(e.values[op.args[0]]).tensor
    rows, cols = integers(op, "scale")
    return e.stage(shape, lambda n, c, h, w, i: x[n, c, h // rows, w // cols, i])


def pad2d(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    value = e.packed(e.values[op.args[0]])
    x, (height, width) = value.tensor, value.shape[2:]
    top, left, _, _ = integers(op, "padding")
    fill = tirx.const(number(op, "value"), "float32")

    def body(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        row, col = h - top, w - left
        inside = tirx.all(row >= 0, row < height, col >= 0, col < width)
        return tirx.if_then_else(inside, x[n, c, row, col, i], fill)

    return e.stage(shape, body)


def spread(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x = e.packed(e.values[op.args[0]]).tensor
    rows, cols = integers(op, "stride")

    def body(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        there = tirx.all(h % rows == 0, w % cols == 0)
        return tirx.if_then_else(there, x[n, c, h // rows, w // cols, i], tirx.const(0.0, "float32"))

    return e.stage(shape, body)


def as_map(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x, lanes = e.values[op.args[0]].tensor, e.lanes

    def body(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        channel = c * lanes + i
        return tirx.if_then_else(channel < shape[1], x[n, channel], tirx.const(0.0, "float32"))

    return e.stage(shape, body)
