"""TE stages that reduce over a window of each channel on its own: depthwise and pooling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hwprune.compile.emit_conv import with_bias
from hwprune.compile.emitter import Emitter, Value
from hwprune.compile.shapes import Shape, flag, integers
from hwprune.compile.tiles import ceil_div, choose_row_tile
from hwprune.compile.tvm_api import te, tirx
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.kernel import KernelOp


@dataclass(frozen=True)
class _Window:
    """Axes and clamped positions of a window reduction, with the masks of what lies outside.

    Reading a clamped position and masking the product needs neither a padded copy nor a branch;
    once the loops are unrolled, masks are left only where a window can really stick out.
    """

    shape: Shape
    value: Callable[..., Any]
    row: Any
    col: Any
    masks: Callable[[Any, Any], tuple[Any, Any]]


def _window(e: Emitter, op: KernelOp, shape: Shape, kernel: tuple[int, ...]) -> _Window:
    x = e.kept_value(e.packed(e.values[op.args[0]]))
    height, width = x.shape[2:]
    pads, stride = integers(op, "padding"), integers(op, "stride")
    dilation = integers(op, "dilation") if "dilation" in dict(op.attributes) else (1, 1)
    row, col = te.reduce_axis((0, kernel[0]), "kh"), te.reduce_axis((0, kernel[1]), "kw")
    tile = choose_row_tile(shape, kernel, e.lanes, e.target.vector_registers)
    e.family, e.tile = "window", tile

    def place(out: Any, axis: int) -> Any:
        return out * stride[axis] + (row, col)[axis] * dilation[axis] - pads[axis]

    def limits(axis: int) -> tuple[bool, bool]:
        """Whether positions before the first and behind the last element occur."""
        last = (
            ((shape[2], tile.width)[axis] - 1) * stride[axis]
            + (kernel[axis] - 1) * dilation[axis]
            - pads[axis]
        )
        return pads[axis] > 0, last >= (height, width)[axis]

    def clamped(out: Any, axis: int) -> Any:
        position, (before, behind) = place(out, axis), limits(axis)
        position = tirx.max(position, 0) if before else position
        return tirx.min(position, (height, width)[axis] - 1) if behind else position

    def mask(out: Any, axis: int) -> Any:
        # Written as comparisons with zero or a size, the mask would let TVM's simplifier take the
        # clamp out of the masked read; the read happens all the same, and then leaves the buffer.
        return place(out, axis) == clamped(out, axis) if any(limits(axis)) else None

    return _Window(
        (shape[0], tile.blocks, tile.height, tile.width, e.lanes),
        lambda n, c, h, w, i: x.tensor[n, c, clamped(h, 0), clamped(w, 1), i],
        row,
        col,
        lambda h, w: (mask(h, 0), mask(w, 1)),
    )


def _masked(value: Any, check: Any, otherwise: float = 0.0) -> Any:
    return value if check is None else tirx.Select(check, value, tirx.const(otherwise, "float32"))


def depthwise(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    weight, bias = e.weight(op, 1), e.weight(op, 2)
    assert weight is not None
    if e.values[op.args[0]].shape[1] != shape[1]:
        raise UnsupportedOperatorError("depthwise_conv2d with a channel multiplier has no lowering")
    window = _window(e, op, shape, e.spec.inputs[op.args[1]].shape[2:])

    def body(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        # Rows mask the weights (once for a whole row tile), columns the few elements at the edge.
        rows, cols = window.masks(h, w)
        value = _masked(window.value(n, c, h, w, i), cols)
        return te.sum(
            value * _masked(weight[c, window.row, window.col, i], rows), axis=[window.row, window.col]
        )

    return with_bias(e, te.compute(window.shape, body, name="acc"), bias, shape)


def max_pool(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    window = _window(e, op, shape, integers(op, "kernel"))
    # Without dilation a clamped position lies in the same window: the maximum does not change.
    exact = integers(op, "dilation") == (1, 1)

    def body(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        value = window.value(n, c, h, w, i)
        if not exact:
            for check in window.masks(h, w):
                value = _masked(value, check, -3.4028234663852886e38)
        return te.max(value, axis=[window.row, window.col])

    return with_bias(e, te.compute(window.shape, body, name="acc"), None, shape)


def avg_pool(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    kernel, stride, pads = integers(op, "kernel"), integers(op, "stride"), integers(op, "padding")
    size = e.values[op.args[0]].shape[2:]
    window = _window(e, op, shape, kernel)

    def total(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        value = window.value(n, c, h, w, i)
        for check in window.masks(h, w):
            value = _masked(value, check)
        return te.sum(value, axis=[window.row, window.col])

    acc = te.compute(window.shape, total, name="acc")
    include = flag(op, "count_include_pad")

    def covered(position: Any, axis: int) -> Any:
        """Inputs under the window along one axis: an int where it is the same everywhere."""
        before, after = (0, 0) if not include else (pads[axis], pads[axis + 2])
        last = (shape[2 + axis] - 1) * stride[axis] - pads[axis] + kernel[axis]
        if last <= size[axis] + after and (include or pads[axis] == 0):
            return kernel[axis]
        start = position * stride[axis] - pads[axis]
        end = tirx.min(start + kernel[axis], size[axis] + after)
        return end - tirx.max(start, -before)

    def body(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        rows, cols = covered(h, 0), covered(w, 1)
        if isinstance(rows, int) and isinstance(cols, int):
            return acc[n, c, h, w, i] * tirx.const(1.0 / (rows * cols), "float32")
        return acc[n, c, h, w, i] / tirx.Cast("float32", rows * cols)

    return e.stage(shape, body)


def adaptive(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x = e.values[op.args[0]].shape
    height, width = x[2:]
    if shape[2:] == (1, 1):
        return mean(e, op, shape)
    if height % shape[2] == 0 and width % shape[3] == 0:
        kernel = (height // shape[2], width // shape[3])
        pool = KernelOp(
            "avg_pool2d",
            op.args,
            (("count_include_pad", 1), ("kernel", kernel), ("padding", (0, 0, 0, 0)), ("stride", kernel)),
        )
        return avg_pool(e, pool, shape)
    source = e.kept_value(e.packed(e.values[op.args[0]])).tensor
    # Windows differ in size: reduce over the widest one, and mask what lies outside.
    rows = max(-(-(i + 1) * height // shape[2]) - i * height // shape[2] for i in range(shape[2]))
    cols = max(-(-(i + 1) * width // shape[3]) - i * width // shape[3] for i in range(shape[3]))
    row, col = te.reduce_axis((0, rows), "kh"), te.reduce_axis((0, cols), "kw")

    def span(position: Any, size: int, out: int) -> tuple[Any, Any]:
        return position * size // out, ((position + 1) * size + out - 1) // out

    def body(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        (top, bottom), (left, right) = span(h, height, shape[2]), span(w, width, shape[3])
        inside = tirx.all(top + row < bottom, left + col < right)
        value = source[n, c, tirx.min(top + row, height - 1), tirx.min(left + col, width - 1), i]
        return te.sum(tirx.if_then_else(inside, value, tirx.const(0.0, "float32")), axis=[row, col])

    acc = te.compute((x[0], ceil_div(x[1], e.lanes), *shape[2:], e.lanes), body, name="acc")
    e.family = "masked"

    def divided(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        (top, bottom), (left, right) = span(h, height, shape[2]), span(w, width, shape[3])
        return acc[n, c, h, w, i] / tirx.Cast("float32", (bottom - top) * (right - left))

    return e.stage(shape, divided)


def mean(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x = e.kept_value(e.packed(e.values[op.args[0]]))
    height, width = x.shape[2:]
    row, col = te.reduce_axis((0, height), "kh"), te.reduce_axis((0, width), "kw")
    acc = te.compute(
        (x.shape[0], ceil_div(x.shape[1], e.lanes), e.lanes),
        lambda n, c, i: te.sum(x.tensor[n, c, row, col, i], axis=[row, col]),
        name="acc",
    )
    e.family = "reduce"
    factor = tirx.const(1.0 / (height * width), "float32")
    if len(shape) == 4:
        return e.stage(shape, lambda n, c, h, w, i: acc[n, c, i] * factor)
    return e.stage(shape, lambda n, c: acc[n, c // e.lanes, c % e.lanes] * factor)
