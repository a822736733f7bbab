"""Logical shapes and multiply-add counts of the operators of a kernel.

One small function per operator kind. What has no function here cannot be compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.kernel import ANCHORS, KernelOp, KernelSpec

Shape = tuple[int, ...]


def integers(op: KernelOp, name: str) -> tuple[int, ...]:
    """Attribute ``name`` as a tuple of integers."""
    value = op.attribute(name)
    return tuple(int(v) for v in value) if isinstance(value, tuple) else (int(value),)


def number(op: KernelOp, name: str) -> float:
    """Attribute ``name`` as a float."""
    value = op.attribute(name)
    if isinstance(value, tuple):
        raise UnsupportedOperatorError(f"operator '{op.kind}': attribute '{name}' must be a number")
    return float(value)


def flag(op: KernelOp, name: str) -> bool:
    """Attribute ``name`` as a boolean; absent means false."""
    return bool(dict(op.attributes).get(name, False))


def pooled_length(
    size: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int, ceil: bool
) -> int:
    """Output length of a pooling or convolution axis, by PyTorch's rule for ``ceil_mode``."""
    span = size + sum(pads) - dilation * (kernel - 1) - 1
    if not ceil:
        return span // stride + 1
    length = -(-span // stride) + 1
    # A window that would start in the padding behind the input does not count.
    return length - 1 if (length - 1) * stride >= size + pads[0] else length


def _windowed(x: Shape, kernel: tuple[int, ...], op: KernelOp, channels: int) -> Shape:
    top, left, bottom, right = integers(op, "padding")
    stride = integers(op, "stride")
    dilation = integers(op, "dilation") if "dilation" in dict(op.attributes) else (1, 1)
    ceil = flag(op, "ceil_mode")
    height = pooled_length(x[2], kernel[0], stride[0], (top, bottom), dilation[0], ceil)
    width = pooled_length(x[3], kernel[1], stride[1], (left, right), dilation[1], ceil)
    return (x[0], channels, height, width)


def _conv(op: KernelOp, args: list[Shape]) -> Shape:
    return _windowed(args[0], args[1][2:], op, args[1][0])


def _pool(op: KernelOp, args: list[Shape]) -> Shape:
    return _windowed(args[0], integers(op, "kernel"), op, args[0][1])


def _linear(op: KernelOp, args: list[Shape]) -> Shape:
    return (args[0][0], args[1][0])


def _adaptive(op: KernelOp, args: list[Shape]) -> Shape:
    return (*args[0][:2], *integers(op, "output"))


def _mean(op: KernelOp, args: list[Shape]) -> Shape:
    return (*args[0][:2], 1, 1) if flag(op, "keepdim") else args[0][:2]


def _cat(op: KernelOp, args: list[Shape]) -> Shape:
    return (args[0][0], sum(a[1] for a in args), *args[0][2:])


def _same(op: KernelOp, args: list[Shape]) -> Shape:
    return args[0]


def _broadcast(op: KernelOp, args: list[Shape]) -> Shape:
    rank = max(len(a) for a in args)
    aligned = [(1,) * (rank - len(a)) + a for a in args]
    result = tuple(max(dims) for dims in zip(*aligned, strict=True))
    for shape in aligned:
        if any(d not in (1, r) for d, r in zip(shape, result, strict=True)):
            raise UnsupportedOperatorError(f"operator '{op.kind}' cannot broadcast {args}")
    return result


def _flatten(op: KernelOp, args: list[Shape]) -> Shape:
    return (args[0][0], math.prod(args[0][1:]))


def _slice(op: KernelOp, args: list[Shape]) -> Shape:
    return (args[0][0], *integers(op, "length"), *args[0][2:])


def _pixel_shuffle(op: KernelOp, args: list[Shape]) -> Shape:
    (n, c, h, w), (f,) = args[0], integers(op, "factor")
    return (n, c // (f * f), h * f, w * f)


def _upsample(op: KernelOp, args: list[Shape]) -> Shape:
    (n, c, h, w), (rows, cols) = args[0], integers(op, "scale")
    return (n, c, h * rows, w * cols)


def _pad(op: KernelOp, args: list[Shape]) -> Shape:
    (n, c, h, w), (top, left, bottom, right) = args[0], integers(op, "padding")
    return (n, c, h + top + bottom, w + left + right)


def _spread(op: KernelOp, args: list[Shape]) -> Shape:
    (n, c, h, w), (rows, cols) = args[0], integers(op, "stride")
    return (n, c, (h - 1) * rows + 1, (w - 1) * cols + 1)


ELEMENTWISE_UNARY = (
    "affine", "relu", "clamp", "leaky_relu", "hardswish", "hardsigmoid", "silu", "sigmoid", "gelu", "tanh",
)  # fmt: skip
ELEMENTWISE = frozenset((*ELEMENTWISE_UNARY, "scale_shift", "add", "mul", "sub", "div"))

SHAPES: dict[str, Callable[[KernelOp, list[Shape]], Shape]] = {
    "conv2d": _conv,
    "depthwise_conv2d": _conv,
    "linear": _linear,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "adaptive_avg_pool2d": _adaptive,
    "mean_hw": _mean,
    "cat": _cat,
    "scale_shift": _same,
    "add": _broadcast,
    "mul": _broadcast,
    "sub": _broadcast,
    "div": _broadcast,
    "flatten": _flatten,
    "layer_norm": _same,
    "softmax": _same,
    "channel_slice": _slice,
    "channel_shuffle": _same,
    "pixel_shuffle": _pixel_shuffle,
    "upsample_nearest": _upsample,
    "pad2d": _pad,
    "as_map": lambda op, args: (*args[0], 1, 1),
    "spread": _spread,
    "fallback": lambda op, args: integers(op, "shape"),
    **dict.fromkeys(ELEMENTWISE_UNARY, _same),
}


def infer_shapes(spec: KernelSpec) -> list[Shape]:
    """Logical shape of every value of a kernel: its inputs, then the results of its ops.

    Raises
    ------
    UnsupportedOperatorError
        For an operator kind without a rule.
    """
    shapes: list[Shape] = [i.shape for i in spec.inputs]
    for op in spec.ops:
        if op.kind not in SHAPES:
            raise UnsupportedOperatorError(f"operator '{op.kind}' has no lowering for CPUs")
        shapes.append(SHAPES[op.kind](op, [shapes[a] for a in op.args if a >= 0]))
    return shapes


def kernel_flops(spec: KernelSpec) -> int:
    """Floating point operations of a kernel (a multiply-add counts as two)."""
    shapes = infer_shapes(spec)
    total = 0
    for number_, op in enumerate(spec.ops):
        result = math.prod(shapes[len(spec.inputs) + number_])
        if op.kind in ("conv2d", "depthwise_conv2d", "linear"):
            total += 2 * result * math.prod(shapes[op.args[1]][1:])
        elif op.kind in ("max_pool2d", "avg_pool2d"):
            total += result * math.prod(integers(op, "kernel"))
        elif op.kind in ("mean_hw", "adaptive_avg_pool2d"):
            total += math.prod(shapes[op.args[0]])
        elif op.kind in ("layer_norm", "softmax"):
            total += 5 * result
        elif op.kind in ELEMENTWISE:
            total += result
    return total


def anchor_index(spec: KernelSpec) -> int | None:
    """Position in ``spec.ops`` of the operator that decides the schedule; None: elementwise only."""
    return next((i for i, op in enumerate(spec.ops) if op.kind in ANCHORS), None)
