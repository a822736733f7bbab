"""Rules of operators that work position by position, or on spatial positions only."""

from __future__ import annotations

import re

from torch import fx

from hwprune.dependency.layout import Layout
from hwprune.dependency.rules import rule
from hwprune.dependency.tracker import Barrier, Dims, Tracker, label, shape

# fmt: off
_UNARY = (
    "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid", "tanh",
    "leaky_relu", "elu", "selu", "celu", "mish", "softplus", "softsign", "logsigmoid", "hardshrink",
    "softshrink", "threshold", "clamp", "clamp_min", "clamp_max", "exp", "log", "log2", "log1p",
    "expm1", "neg", "abs", "sqrt", "rsqrt", "reciprocal", "square", "sin", "cos", "erf", "floor",
    "ceil", "round", "sign", "pow.Tensor_Scalar", "pow.Scalar", "add.Scalar", "sub.Scalar",
    "mul.Scalar", "div.Scalar", "rsub.Scalar", "dropout", "feature_dropout", "alpha_dropout",
    "clone", "contiguous", "detach", "alias", "to.dtype", "to.device", "to.dtype_layout",
    "_to_copy", "identity", "eq.Scalar", "ne.Scalar", "gt.Scalar", "ge.Scalar", "lt.Scalar",
    "le.Scalar", "logical_not", "bitwise_not", "nan_to_num", "zeros_like", "ones_like",
    "masked_fill.Scalar",
)
# fmt: on

# fmt: off
_BINARY = (
    "add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "div.Tensor_mode", "rsub.Tensor",
    "maximum", "minimum", "pow.Tensor_Tensor", "addcmul", "addcdiv", "where.self", "lerp.Tensor",
    "lerp.Scalar", "eq.Tensor", "ne.Tensor", "gt.Tensor", "ge.Tensor", "lt.Tensor", "le.Tensor",
    "logical_and", "logical_or", "expand_as",
)
# fmt: on


@rule(*_UNARY, *_BINARY)
def elementwise(t: Tracker, node: fx.Node) -> Dims:
    """Operands are lined up from the right; dimensions of one position are repeated."""
    sizes = shape(node)
    operands = [n for n in node.all_input_nodes if shape(n) is not None]
    if sizes is None or not operands:
        raise Barrier("it does not make one tensor")
    if len(operands) > 1:
        t.merges.add(node)
    out: list[Layout | None] = [None] * len(sizes)
    for position, size in enumerate(sizes):
        chosen = None
        first = True
        for operand in operands:
            own = shape(operand) or ()
            dim = position - len(sizes) + len(own)
            if dim < 0:
                continue
            layout = t.of(operand)[dim]
            if own[dim] != size:
                t.keep(layout, f"its one channel is repeated by {label(node)}")
            elif first:
                chosen, first = layout, False
            elif chosen is not layout:
                t.tie(chosen, layout, node)
        out[position] = chosen
    return out


# fmt: off
_SPATIAL = (
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "upsample_nearest1d.vec",
    "upsample_nearest2d.vec", "upsample_nearest3d.vec", "upsample_linear1d.vec",
    "upsample_bilinear2d.vec", "upsample_bicubic2d.vec", "upsample_trilinear3d.vec",
    "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d",
)
# fmt: on


@rule(*_SPATIAL)
def spatial(t: Tracker, node: fx.Node) -> Dims:
    """The last 1, 2 or 3 dimensions are mixed, the others pass."""
    found = re.search(r"(\d)d", str(node.target))
    x = t.of(node.args[0])
    count = int(found.group(1)) if found else len(x)
    for layout in x[len(x) - count :]:
        t.keep(layout, f"mixed by {label(node)}")
    return [*x[: len(x) - count], *([None] * count)]


@rule("softmax.int", "log_softmax.int", "cumsum", "roll", "flip")
def along(t: Tracker, node: fx.Node) -> Dims:
    """One dimension is mixed or reordered and keeps its size, the others pass."""
    x = list(t.of(node.args[0]))
    index = 2 if "roll" in str(node.target) else 1
    chosen = node.args[index] if len(node.args) > index else None
    for dim in chosen if isinstance(chosen, list | tuple) else (chosen,):
        if not isinstance(dim, int):
            raise Barrier("its dimension is not a constant")
        t.keep(x[dim], f"its channels are mixed by {label(node)}")
        x[dim] = None
    return x


@rule("mean.dim", "sum.dim_IntList", "amax", "amin", "var.correction", "linalg_vector_norm")
def reduce(t: Tracker, node: fx.Node) -> Dims:
    """Reduced dimensions are kept whole, the others pass."""
    x = t.of(node.args[0])
    index = 2 if "linalg_vector_norm" in str(node.target) else 1
    given = node.args[index] if len(node.args) > index else None
    dims = given if isinstance(given, list | tuple) else ([given] if isinstance(given, int) else None)
    chosen = {int(str(d)) % len(x) for d in dims} if dims else set(range(len(x)))
    for dim in chosen:
        t.keep(x[dim], f"its channels are reduced by {label(node)}")
    if len(shape(node) or ()) == len(x):
        return [None if dim in chosen else layout for dim, layout in enumerate(x)]
    return [layout for dim, layout in enumerate(x) if dim not in chosen]
