"""Convolutions and pooling as ONNX nodes."""

from __future__ import annotations

import numpy as np

from hwprune.compile.shapes import flag, integers
from hwprune.latency.kernel import KernelOp
from hwprune.onnx_backend.graph import Graph, Shape, Value


def _dilation(op: KernelOp) -> tuple[int, ...]:
    return integers(op, "dilation") if "dilation" in dict(op.attributes) else (1, 1)


def conv(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    """Conv; padding that cuts off (from a transposed convolution) is a node of its own."""
    x, weight, bias = args
    assert x is not None and weight is not None
    padding, data = integers(op, "padding"), x.name
    if min(padding) < 0:
        data, padding = pad(g, data, padding, 0.0), (0, 0, 0, 0)
    groups = x.shape[1] if op.kind == "depthwise_conv2d" else integers(op, "groups")[0]
    return g.node(
        "Conv",
        [data, weight.name, bias.name if bias else ""],
        kernel_shape=weight.shape[2:],
        strides=integers(op, "stride"),
        dilations=_dilation(op),
        pads=padding,
        group=groups,
    )


def turned_padding(op: KernelOp, kernel: Shape) -> list[int]:
    """Padding of the ConvTranspose that a convolution over spread data is; negative: there is none."""
    ends = [d * (k - 1) for d, k in zip(_dilation(op), kernel, strict=True)] * 2
    return [end - p for end, p in zip(ends, integers(op, "padding"), strict=True)]


def transposed(g: Graph, spread: KernelOp, op: KernelOp, args: list[Value | None]) -> str:
    """``spread`` and the convolution behind it as the ConvTranspose that they came from.

    ``args`` are the convolution's, with the data before spreading.
    """
    x, weight, bias = args
    assert x is not None and weight is not None and weight.array is not None
    groups = x.shape[1] if op.kind == "depthwise_conv2d" else integers(op, "groups")[0]
    kernel = weight.shape[2:]
    outs, per_group = weight.shape[0] // groups, weight.shape[1]
    # [groups, out, in, ...] to [groups, in, out, ...], and the kernel turned by half a turn.
    array = weight.array.reshape(groups, outs, per_group, *kernel).swapaxes(1, 2)[..., ::-1, ::-1]
    turned = g.weight(f"{weight.name}_transposed{groups}", array.reshape(groups * per_group, outs, *kernel))
    return g.node(
        "ConvTranspose",
        [x.name, turned.name, bias.name if bias else ""],
        kernel_shape=kernel,
        strides=integers(spread, "stride"),
        dilations=_dilation(op),
        pads=turned_padding(op, kernel),
        group=groups,
    )


def spread(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    """Zeros between rows and columns: a transposed 1x1 convolution of every channel by one."""
    (x,) = args
    assert x is not None
    ones = g.constant(np.ones((x.shape[1], 1, 1, 1)), "float32")
    return g.node("ConvTranspose", [x.name, ones], strides=integers(op, "stride"), group=x.shape[1])


def pad(g: Graph, name: str, padding: tuple[int, ...], value: float) -> str:
    """Rows and columns added (or, where negative, cut off) around a feature map."""
    top, left, bottom, right = padding
    ends = g.constant([0, 0, top, left, 0, 0, bottom, right])
    return g.node("Pad", [name, ends, g.constant(value, "float32")])


def _floor_padding(op: KernelOp, x: Shape, out: Shape) -> tuple[tuple[int, ...], bool]:
    """Padding with which rounding down gives ``out``, and whether it is more than the operator's."""
    kernel, stride, dilation = integers(op, "kernel"), integers(op, "stride"), _dilation(op)
    top, left, bottom, right = integers(op, "padding")
    more: list[int] = []
    for axis, padded in enumerate((x[2] + top + bottom, x[3] + left + right)):
        span = (out[2 + axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        more.append(max(0, span - padded))
    return (top, left, bottom + more[0], right + more[1]), any(more)


def max_pool(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    """MaxPool. What ``ceil_mode`` adds is padding: ONNX and torch differ on the last window."""
    (x,) = args
    assert x is not None
    return g.node(
        "MaxPool",
        [x.name],
        kernel_shape=integers(op, "kernel"),
        strides=integers(op, "stride"),
        dilations=_dilation(op),
        pads=_floor_padding(op, x.shape, out)[0],
    )


def avg_pool(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    """AveragePool; where windows hang over the padding, torch's divisors as a factor behind it."""
    (x,) = args
    assert x is not None
    padding, longer = _floor_padding(op, x.shape, out)
    include = flag(op, "count_include_pad") and any(padding)
    kernel, stride = integers(op, "kernel"), integers(op, "stride")
    result = g.node(
        "AveragePool",
        [x.name],
        kernel_shape=kernel,
        strides=stride,
        pads=padding,
        count_include_pad=int(include),
    )
    if not (include and longer):
        return result
    top, left, bottom, right = integers(op, "padding")
    counted: list[np.ndarray] = []
    for axis, end in enumerate((x.shape[2] + top + bottom, x.shape[3] + left + right)):
        begin = np.arange(out[2 + axis]) * stride[axis]
        counted.append(np.minimum(begin + kernel[axis], end) - begin)
    factor = kernel[0] * kernel[1] / np.outer(*counted)
    return g.node("Mul", [result, g.constant(factor[None, None], "float32")])


def adaptive_avg_pool(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    """By the simplest of three: global, with equal windows, or as two matrix products."""
    (x,) = args
    assert x is not None
    if out[2:] == (1, 1):
        return g.node("GlobalAveragePool", [x.name])
    if x.shape[2] % out[2] == 0 and x.shape[3] % out[3] == 0:
        window = (x.shape[2] // out[2], x.shape[3] // out[3])
        return g.node("AveragePool", [x.name], kernel_shape=window, strides=window)
    rows, columns = (_averages(x.shape[i], out[i]) for i in (2, 3))
    half = g.node("MatMul", [x.name, g.constant(columns.T, "float32")])
    return g.node("MatMul", [g.constant(rows, "float32"), half])


def _averages(size: int, out: int) -> np.ndarray:
    """Matrix [out, size] that averages torch's adaptive windows of an axis."""
    matrix = np.zeros((out, size), np.float32)
    for row in range(out):
        begin, end = row * size // out, -(-(row + 1) * size // out)
        matrix[row, begin:end] = 1 / (end - begin)
    return matrix


def mean(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    """GlobalAveragePool, which ONNX Runtime computes on blocked channels; ReduceMean it does not."""
    (x,) = args
    assert x is not None
    result = g.node("GlobalAveragePool", [x.name])
    return result if len(out) == 4 else g.node("Flatten", [result], axis=1)
