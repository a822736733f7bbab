"""TE stages of operators that compute each element on its own, and of concatenation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwprune.compile.emit_channels import gathered
from hwprune.compile.emitter import Emitter, Value
from hwprune.compile.layout import flattened_shape
from hwprune.compile.math_ops import UNARY
from hwprune.compile.shapes import Shape
from hwprune.compile.tiles import ceil_div
from hwprune.compile.tvm_api import tirx
from hwprune.latency.kernel import KernelOp


def unary(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x = e.packed(e.values[op.args[0]])
    function = UNARY[op.kind]
    return e.stage(x.shape, lambda *index: function(x.tensor[index], op))


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
}


def binary(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    a, b = (e.packed(e.values[i]) for i in op.args)

    def body(*index: Any) -> Any:
        x, y = e.broadcast(a, shape, index), e.broadcast(b, shape, index)
        if op.kind == "div" and len(shape) == 4 and shape[1] % e.lanes:
            # The lanes behind the last channel must stay finite.
            y = tirx.Select(e.channel(index) < shape[1], y, tirx.const(1.0, "float32"))
        return _ARITHMETIC[op.kind](x, y)

    return e.stage(shape, body)


def scale_shift(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x = e.packed(e.values[op.args[0]])
    scale, shift = e.weight(op, 1), e.weight(op, 2)
    assert scale is not None and shift is not None

    def body(*index: Any) -> Any:
        c = e.channel(index)
        return x.tensor[index] * scale[c] + shift[c]

    return e.stage(x.shape, body)


def flatten(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x = e.values[op.args[0]]
    position = len(e.values)
    users = [o for o in e.spec.ops if position in o.args]
    flat = flattened_shape(e.spec, position, e.shapes)
    if users and flat is not None and all(o.kind == "linear" for o in users):
        return x  # the linear operator reads the packed tensor in its own order
    _, _, h, w = x.shape if len(x.shape) == 4 else (0, 0, 1, 1)
    lanes, source = e.lanes, x.tensor

    def body(n: Any, k: Any) -> Any:
        if len(x.shape) != 4:
            return source[n, k]
        c, row, col = k // (h * w), k // w % h, k % w
        if x.plain:
            return source[n, c, row, col]
        return source[n, c // lanes, row, col, c % lanes]

    return e.stage(shape, body)


def cat(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    parts = [e.packed(e.values[a]) for a in op.args]
    lanes = e.lanes
    starts = [sum(p.shape[1] for p in parts[:i]) for i in range(len(parts))]
    aligned = len(shape) == 4 and all(s % lanes == 0 for s in starts)

    def body(*index: Any) -> Any:
        channel = e.channel(index)
        result: Any = None
        for part, start in reversed(list(zip(parts, starts, strict=True))):
            if len(shape) == 2:
                value, inside = part.tensor[index[0], channel - start], channel < start + part.shape[1]
            elif aligned:
                n, c, h, w, i = index
                value = part.tensor[n, c - start // lanes, h, w, i]
                inside = c < start // lanes + ceil_div(part.shape[1], lanes)
            else:
                n, _, h, w, _ = index
                local = channel - start
                value = part.tensor[n, local // lanes, h, w, local % lanes]
                inside = local < part.shape[1]
            if result is None and len(shape) == 4 and not aligned:
                value = tirx.if_then_else(channel < shape[1], value, tirx.const(0.0, "float32"))
            result = value if result is None else tirx.if_then_else(inside, value, result)
        return result

    result = e.stage(shape, body)
    return result if aligned or len(shape) == 2 else gathered(e, op, result)
