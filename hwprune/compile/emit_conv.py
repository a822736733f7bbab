"""TE stages of dense, grouped and fully connected layers."""

from __future__ import annotations

from typing import Any

from hwprune.compile.emit_pad import padded_copy
from hwprune.compile.emitter import Emitter, Value
from hwprune.compile.layout import conv_plan, flattened_shape
from hwprune.compile.shapes import Shape
from hwprune.compile.tiles import splits_rows
from hwprune.compile.tvm_api import Tensor, te, tirx
from hwprune.latency.kernel import KernelOp


def _padded(e: Emitter, x: Value, top: int, left: int, size: tuple[int, int], copy: bool) -> Tensor:
    """The input, or a ``pad`` stage of ``size`` rows and columns that begins before it."""
    tensor = e.kept_value(x).tensor
    if not copy:
        return tensor
    shape = tuple(int(d) for d in tensor.shape)
    size_all = (*shape[:2], *size, *shape[4:])
    return padded_copy(tensor, size_all, top, left, e.lanes, e.target.threads, by_rows=e.by_rows)


def with_bias(e: Emitter, acc: Tensor, bias: Tensor | None, shape: Shape) -> Value:
    if bias is None:
        return e.stage(shape, lambda *index: acc[index])
    return e.stage(shape, lambda *index: acc[index] + bias[e.channel(index)])


def conv2d(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x = e.values[op.args[0]]
    g, tile = conv_plan(e.spec, op, e.shapes, e.target, e.choice)
    if not g.plain_input:
        x = e.packed(x)
    e.family, e.tile, e.weight_name = "conv", tile, f"in{op.args[1]}"
    e.by_rows = splits_rows(g, tile, e.target.threads)
    size = g.needed(tile.height, tile.width)
    data = _padded(e, x, g.padding[0], g.padding[1], size, g.needs_copy(tile.height, tile.width))
    weight, bias, t = e.weight(op, 1), e.weight(op, 2), tile.block_tile
    assert weight is not None
    lanes, per_group, stored = e.lanes, g.out_blocks // g.groups, int(data.shape[1])
    block, row, col, lane = (
        te.reduce_axis((0, extent), name)
        for extent, name in zip((g.in_blocks, *g.kernel, lanes), ("ic", "kh", "kw", "ii"), strict=True)
    )
    axes = [block, row, col] if g.plain_input else [block, row, col, lane]

    def body(n: Any, o: Any, h: Any, w: Any, i: Any) -> Any:
        y, z = h * g.stride[0] + row * g.dilation[0], w * g.stride[1] + col * g.dilation[1]
        source = block
        if g.groups > 1:
            source = o // per_group * g.in_blocks + block
            if g.groups * g.in_blocks > stored:  # blocks that an incomplete last group lacks
                source = tirx.min(source, stored - 1)
        inner = () if g.plain_input else (lane,)
        return te.sum(
            data[(n, source, y, z, *inner)] * weight[(o // t, block, row, col, *inner, o % t * lanes + i)],
            axis=axes,
        )

    acc = te.compute((g.batch, tile.blocks, tile.height, tile.width, lanes), body, name="acc")
    return with_bias(e, acc, bias, shape)


def linear(e: Emitter, op: KernelOp, shape: Shape) -> Value:
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
