"""One small function per operator kind: what a kernel's operator is in ONNX."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwprune.compile.shapes import integers, number
from hwprune.latency.kernel import KernelOp
from hwprune.onnx_backend import windows
from hwprune.onnx_backend.graph import Graph, Shape, Value

Emit = Callable[[Graph, KernelOp, list["Value | None"], Shape], str]


def _x(args: list[Value | None]) -> Value:
    assert args[0] is not None
    return args[0]


def _plain(kind: str) -> Emit:
    """An operator that ONNX has under another name, without attributes."""
    return lambda g, op, args, out: g.node(kind, [a.name for a in args if a is not None])


def _linear(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    x, weight, bias = args
    assert x is not None and weight is not None
    return g.node("Gemm", [x.name, weight.name, bias.name if bias else ""], transB=1)


def _cat(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    return g.node("Concat", [a.name for a in args if a is not None], axis=1)


def _layer_norm(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    x, weight, bias = args
    assert x is not None
    count = x.shape[1]
    scale = weight.name if weight else g.constant(np.ones(count), "float32")
    maps = len(x.shape) == 4
    data = g.node("Transpose", [x.name], perm=[0, 2, 3, 1]) if maps else x.name
    result = g.node(
        "LayerNormalization", [data, scale, bias.name if bias else ""], axis=-1, epsilon=number(op, "eps")
    )
    return g.node("Transpose", [result], perm=[0, 3, 1, 2]) if maps else result


def _channel_slice(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    (start,), (length,) = integers(op, "start"), integers(op, "length")
    ends = [g.constant([value]) for value in (start, start + length, 1)]
    return g.node("Slice", [_x(args).name, *ends])


def _channel_shuffle(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    x, (groups,) = _x(args), integers(op, "groups")
    n, c, *rest = x.shape
    split = g.node("Reshape", [x.name, g.constant([n, groups, c // groups, *rest])])
    swapped = g.node("Transpose", [split], perm=[0, 2, 1, *range(3, 3 + len(rest))])
    return g.node("Reshape", [swapped, g.constant(x.shape)])


def _pixel_shuffle(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    return g.node("DepthToSpace", [_x(args).name], blocksize=integers(op, "factor")[0], mode="CRD")


def _upsample(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    scales = g.constant([1, 1, *integers(op, "scale")], "float32")
    return g.node(
        "Resize",
        [_x(args).name, "", scales],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _pad(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    return windows.pad(g, _x(args).name, integers(op, "padding"), number(op, "value"))


def _as_map(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    return g.node("Unsqueeze", [_x(args).name, g.constant([2, 3])])


def _scale_shift(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    """A BatchNormalization: the form that ONNX Runtime computes on blocked channels, in one pass."""
    x, scale, shift = args
    assert x is not None and scale is not None and shift is not None
    zeros, ones = (g.constant(np.full(x.shape[1], v), "float32") for v in (0.0, 1.0))
    return g.node("BatchNormalization", [x.name, scale.name, shift.name, zeros, ones], epsilon=0.0)


def _affine(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    result = _x(args).name
    scale, shift = number(op, "scale"), number(op, "shift")
    if scale != 1.0:
        result = g.node("Mul", [result, g.constant(scale, "float32")])
    if shift != 0.0 or scale == 1.0:
        result = g.node("Add", [result, g.constant(shift, "float32")])
    return result


def _clamp(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    low, high = number(op, "min"), number(op, "max")
    bounds = [g.constant(v, "float32") if np.isfinite(v) else "" for v in (low, high)]
    return g.node("Clip", [_x(args).name, *bounds])


def _leaky_relu(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    return g.node("LeakyRelu", [_x(args).name], alpha=number(op, "slope"))


def _hardsigmoid(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    return g.node("HardSigmoid", [_x(args).name], alpha=1 / 6, beta=0.5)


def _silu(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    x = _x(args).name
    return g.node("Mul", [x, g.node("Sigmoid", [x])])


def _gelu(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    return g.node("Gelu", [_x(args).name], approximate=str(op.attribute("approximate")))


def _softmax(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    return g.node("Softmax", [_x(args).name], axis=1)


def _flatten(g: Graph, op: KernelOp, args: list[Value | None], out: Shape) -> str:
    return g.node("Flatten", [_x(args).name], axis=1)


#: Every kind but ``fallback``, which :mod:`hwprune.onnx_backend.fallback` imports.
EMIT: dict[str, Emit] = {
    "conv2d": windows.conv,
    "depthwise_conv2d": windows.conv,
    "linear": _linear,
    "max_pool2d": windows.max_pool,
    "avg_pool2d": windows.avg_pool,
    "adaptive_avg_pool2d": windows.adaptive_avg_pool,
    "mean_hw": windows.mean,
    "cat": _cat,
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    "channel_slice": _channel_slice,
    "channel_shuffle": _channel_shuffle,
    "pixel_shuffle": _pixel_shuffle,
    "upsample_nearest": _upsample,
    "pad2d": _pad,
    "as_map": _as_map,
    "scale_shift": _scale_shift,
    "affine": _affine,
    "add": _plain("Add"),
    "mul": _plain("Mul"),
    "sub": _plain("Sub"),
    "div": _plain("Div"),
    "relu": _plain("Relu"),
    "clamp": _clamp,
    "leaky_relu": _leaky_relu,
    "hardswish": _plain("HardSwish"),
    "hardsigmoid": _hardsigmoid,
    "silu": _silu,
    "sigmoid": _plain("Sigmoid"),
    "gelu": _gelu,
    "tanh": _plain("Tanh"),
    "flatten": _flatten,
    "spread": windows.spread,
}
