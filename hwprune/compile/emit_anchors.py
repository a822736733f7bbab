"""TE stages of the anchors: convolutions, pooling, dense layers, concatenation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hwprune.compile.emit import Emitter, Value
from hwprune.compile.layout import conv_plan, flattened_shape
from hwprune.compile.shapes import Shape, flag, integers
from hwprune.compile.tiles import ceil_div
from hwprune.compile.tvm_api import Tensor, te, tirx
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.kernel import KernelOp


def _padded(
    e: Emitter, x: Value, top: int, left: int, size: tuple[int, int], fill: float, copy: bool
) -> Tensor:
    """The input, or a ``pad`` stage of ``size`` rows and columns that begins before it."""
    if not copy:
        return e.kept_value(x).tensor
    height, width = x.shape[2:]
    tensor = x.tensor

    def body(n: Any, c: Any, h: Any, w: Any, *lane: Any) -> Any:
        row, col = h - top, w - left
        checks = [
            check
            for check, wanted in (
                (row >= 0, top > 0),
                (row < height, size[0] > height + top),
                (col >= 0, left > 0),
                (col < width, size[1] > width + left),
            )
            if wanted
        ]
        value = tensor[(n, c, row, col, *lane)]
        return tirx.if_then_else(tirx.all(*checks), value, tirx.const(fill, "float32")) if checks else value

    shape = tuple(int(d) for d in tensor.shape)
    return te.compute((*shape[:2], *size, *shape[4:]), body, name="pad")


def _conv2d(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x = e.values[op.args[0]]
    g, tile = conv_plan(e.spec, op, e.shapes, e.target)
    if not g.plain_input:
        x = e.packed(x)
    e.family, e.tile = "conv", tile
    size = g.needed(tile.height, tile.width)
    data = _padded(e, x, g.padding[0], g.padding[1], size, 0.0, g.needs_copy(tile.height, tile.width))
    weight, bias, t = e.weight(op, 1), e.weight(op, 2), tile.block_tile
    assert weight is not None
    lanes, per_group = e.lanes, g.out_blocks // g.groups
    block, row, col, lane = (
        te.reduce_axis((0, extent), name)
        for extent, name in zip((g.in_blocks, *g.kernel, lanes), ("ic", "kh", "kw", "ii"), strict=True)
    )
    axes = [block, row, col] if g.plain_input else [block, row, col, lane]

    def body(n: Any, o: Any, h: Any, w: Any, i: Any) -> Any:
        y, z = h * g.stride[0] + row * g.dilation[0], w * g.stride[1] + col * g.dilation[1]
        source = block if g.groups == 1 else o // per_group * g.in_blocks + block
        inner = () if g.plain_input else (lane,)
        return te.sum(
            data[(n, source, y, z, *inner)] * weight[(o // t, block, row, col, *inner, o % t * lanes + i)],
            axis=axes,
        )

    acc = te.compute((g.batch, tile.blocks, tile.height, tile.width, lanes), body, name="acc")
    return _with_bias(e, acc, bias, shape)


def _with_bias(e: Emitter, acc: Tensor, bias: Tensor | None, shape: Shape) -> Value:
    if bias is None:
        return e.stage(shape, lambda *index: acc[index])
    return e.stage(shape, lambda *index: acc[index] + bias[e.channel(index)])


def _with_bias(e: Emitter, acc: Tensor, bias: Tensor | None, shape: Shape) -> Value:
    if bias is None:
        return e.stage(shape, lambda *index: acc[index])
    return e.stage(shape, lambda *index: acc[index] + bias[e.channel(index)])


def _window(
    e: Emitter, op: KernelOp, shape: Shape, kernel: tuple[int, ...], fill: float, reduce: Callable[..., Any]
) -> Tensor:
    """A reduction over a window per channel; ``reduce(element, c, kh, kw, i, axes)``."""
    x = e.packed(e.values[op.args[0]])
    top, left, _, _ = integers(op, "padding")
    stride = integers(op, "stride")
    dilation = integers(op, "dilation") if "dilation" in dict(op.attributes) else (1, 1)
    size = tuple(
        (out - 1) * s + (k - 1) * d + 1
        for out, s, k, d in zip(shape[2:], stride, kernel, dilation, strict=True)
    )
    copy = bool(top or left or size[0] > x.shape[2] or size[1] > x.shape[3])
    data = _padded(e, x, top, left, (size[0], size[1]), fill, copy)
    row, col = te.reduce_axis((0, kernel[0]), "kh"), te.reduce_axis((0, kernel[1]), "kw")

    def body(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        y, z = h * stride[0] + row * dilation[0], w * stride[1] + col * dilation[1]
        return reduce(data[n, c, y, z, i], c, row, col, i, [row, col])

    e.family = "window"
    return te.compute((shape[0], ceil_div(shape[1], e.lanes), *shape[2:], e.lanes), body, name="acc")


@dataclass(frozen=True)
class _Window:
    """Axes and clamped positions of a window reduction, with the masks of what lies outside.

    Reading a clamped position and masking the product needs neither a padded copy nor a branch;
    once the loops are unrolled, masks are left only where a window can really stick out.
    """

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
    e.family = "window"

    def place(out: Any, axis: int) -> Any:
        return out * stride[axis] + (row, col)[axis] * dilation[axis] - pads[axis]

    def limits(axis: int) -> tuple[bool, bool]:
        """Whether positions before the first and behind the last element occur."""
        last = (shape[2 + axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] - pads[axis]
        return pads[axis] > 0, last >= (height, width)[axis]

    def clamped(out: Any, axis: int) -> Any:
        position, (before, behind) = place(out, axis), limits(axis)
        position = tirx.max(position, 0) if before else position
        return tirx.min(position, (height, width)[axis] - 1) if behind else position

    def mask(out: Any, axis: int) -> Any:
        position, (before, behind) = place(out, axis), limits(axis)
        checks = ([position >= 0] if before else []) + ([position < (height, width)[axis]] if behind else [])
        return tirx.all(*checks) if checks else None

    return _Window(
        lambda n, c, h, w, i: x.tensor[n, c, clamped(h, 0), clamped(w, 1), i],
        row,
        col,
        lambda h, w: (mask(h, 0), mask(w, 1)),
    )


def _masked(value: Any, check: Any, otherwise: float = 0.0) -> Any:
    return value if check is None else tirx.Select(check, value, tirx.const(otherwise, "float32"))


def _window_shape(e: Emitter, shape: Shape) -> Shape:
    return (shape[0], ceil_div(shape[1], e.lanes), *shape[2:], e.lanes)


def _depthwise(e: Emitter, op: KernelOp, shape: Shape) -> Value:
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

    return _with_bias(e, te.compute(_window_shape(e, shape), body, name="acc"), bias, shape)


def _max_pool(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    window = _window(e, op, shape, integers(op, "kernel"))
    # Without dilation a clamped position lies in the same window: the maximum does not change.
    exact = integers(op, "dilation") == (1, 1)

    def body(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        value = window.value(n, c, h, w, i)
        if not exact:
            for check in window.masks(h, w):
                value = _masked(value, check, -3.4028234663852886e38)
        return te.max(value, axis=[window.row, window.col])

    return _with_bias(e, te.compute(_window_shape(e, shape), body, name="acc"), None, shape)


def _avg_pool(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    kernel, stride, pads = integers(op, "kernel"), integers(op, "stride"), integers(op, "padding")
    size = e.values[op.args[0]].shape[2:]
    window = _window(e, op, shape, kernel)

    def total(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        value = window.value(n, c, h, w, i)
        for check in window.masks(h, w):
            value = _masked(value, check)
        return te.sum(value, axis=[window.row, window.col])

    acc = te.compute(_window_shape(e, shape), total, name="acc")
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


def _adaptive(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x = e.values[op.args[0]].shape
    height, width = x[2:]
    if shape[2:] == (1, 1):
        return _mean(e, op, shape)
    if height % shape[2] == 0 and width % shape[3] == 0:
        kernel = (height // shape[2], width // shape[3])
        pool = KernelOp(
            "avg_pool2d",
            op.args,
            (("count_include_pad", 1), ("kernel", kernel), ("padding", (0, 0, 0, 0)), ("stride", kernel)),
        )
        return _avg_pool(e, pool, shape)
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

    def mean(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        (top, bottom), (left, right) = span(h, height, shape[2]), span(w, width, shape[3])
        return acc[n, c, h, w, i] / tirx.Cast("float32", (bottom - top) * (right - left))

    return e.stage(shape, mean)


def _mean(e: Emitter, op: KernelOp, shape: Shape) -> Value:
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


def _linear(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x, weight, bias = e.kept_value(e.values[op.args[0]]), e.weight(op, 1), e.weight(op, 2)
    assert weight is not None
    lanes, flat = e.lanes, flattened_shape(e.spec, op.args[0], e.shapes)
    blocks, inner, _ = (int(d) for d in weight.shape)
    k = te.reduce_axis((0, inner), "k")

    def element(n: Any) -> Any:
        if flat is None:
            return x.tensor[n, k]
        _, _, h, w = flat
        return x.tensor[n, k // (h * w * lanes), k // (w * lanes) % h, k // lanes % w, k % lanes]

    acc = te.compute(
        (shape[0], blocks, lanes),
        lambda n, o, i: te.sum(element(n) * weight[o, k, i], axis=[k]),
        name="acc",
    )
    e.family = "linear"
    if bias is None:
        return e.stage(shape, lambda n, o: acc[n, o // lanes, o % lanes])
    return e.stage(shape, lambda n, o: acc[n, o // lanes, o % lanes] + bias[o])


def _cat(e: Emitter, op: KernelOp, shape: Shape) -> Value:
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

    return e.stage(shape, body)


ANCHOR_EMITTERS: dict[str, Callable[[Emitter, KernelOp, Shape], Value]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
    "linear": _linear,
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "adaptive_avg_pool2d": _adaptive,
    "mean_hw": _mean,
    "cat": _cat,
}
