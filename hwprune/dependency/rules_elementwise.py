"""Rules of operators that work position by position, or on spatial positions only."""

from __future__ import annotations

import math
import re

from torch import fx

from hwprune.dependency.arguments import argument
from hwprune.dependency.layout import Layout
from hwprune.dependency.rules import rule
from hwprune.dependency.tracker import Barrier, Dims, Parts, Tracker, label, shape, shapes_of

# fmt: off
_UNARY = (
    "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid", "tanh",
    "leaky_relu", "elu", "selu", "celu", "mish", "softplus", "log_sigmoid", "hardshrink",
    "softshrink", "threshold", "rrelu", "clamp", "clamp_min", "clamp_max", "clip", "exp", "exp2",
    "log", "log2", "log10", "log1p", "expm1", "neg", "negative", "positive", "abs", "absolute",
    "sqrt", "rsqrt",
    "reciprocal", "square", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh",
    "atanh", "erf", "erfc", "erfinv", "lgamma", "digamma", "sinc", "logit", "floor", "ceil", "round", "trunc",
    "fix", "frac", "sign", "sgn", "signbit", "isnan", "isinf", "isfinite", "nan_to_num",
    "pow.Tensor_Scalar", "pow.Scalar", "add.Scalar", "sub.Scalar", "mul.Scalar", "div.Scalar", "rsub.Scalar",
    "div.Scalar_mode", "floor_divide.Scalar", "fmod.Scalar", "remainder.Scalar", "bitwise_and.Scalar",
    "bitwise_or.Scalar", "bitwise_xor.Scalar",
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout",
    "clone", "contiguous", "detach", "alias", "lift_fresh_copy", "to.dtype", "to.device", "to.dtype_layout",
    "to.other", "_to_copy", "type_as", "view.dtype",
    "eq.Scalar", "ne.Scalar", "gt.Scalar", "ge.Scalar", "lt.Scalar", "le.Scalar", "logical_not",
    "bitwise_not",
    "zeros_like", "ones_like", "full_like", "empty_like", "zero", "fill.Scalar",
    "masked_fill.Scalar", "where.ScalarOther", "where.ScalarSelf", "where.Scalar",
)
# fmt: on

# fmt: off
_BINARY = (
    "add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "div.Tensor_mode", "rsub.Tensor",
    "multiply.Tensor",
    "subtract.Tensor", "divide.Tensor", "true_divide.Tensor", "floor_divide", "fmod.Tensor",
    "remainder.Tensor",
    "maximum", "minimum", "fmax", "fmin", "max.other", "min.other", "pow.Tensor_Tensor", "atan2", "hypot",
    "logaddexp", "xlogy.Tensor", "addcmul", "addcdiv", "where.self", "lerp.Tensor", "lerp.Scalar",
    "clamp.Tensor", "clamp_min.Tensor", "clamp_max.Tensor", "masked_fill.Tensor", "fill.Tensor", "copy",
    "eq.Tensor", "ne.Tensor", "gt.Tensor", "ge.Tensor", "lt.Tensor", "le.Tensor", "isclose",
    "logical_and", "logical_or", "logical_xor", "bitwise_and.Tensor", "bitwise_or.Tensor",
    "bitwise_xor.Tensor",
    "expand_as",
)
# fmt: on


@rule(*_UNARY, *_BINARY)
def elementwise(t: Tracker, node: fx.Node) -> Dims:
    """Operands are lined up from the right; dimensions of one position are repeated."""
    sizes = shape(node)
    operands = [n for n in node.all_input_nodes if shape(n) is not None]
    if str(node.target) in ("aten.type_as.default", "aten.to.other"):
        operands = operands[:1]  # of the other only the dtype counts
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
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d", "_upsample_nearest_exact2d",
    "upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec", "upsample_linear1d.vec",
    "upsample_bilinear2d.vec", "upsample_bicubic2d.vec", "upsample_trilinear3d.vec",
    "_upsample_nearest_exact2d.vec", "_upsample_bilinear2d_aa", "_upsample_bilinear2d_aa.vec",
    "_upsample_bicubic2d_aa", "_upsample_bicubic2d_aa.vec",
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
    "replication_pad3d",
)
_SPATIAL_IN_PAIRS = (
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool2d_with_indices",
    "max_pool3d_with_indices",
)
# fmt: on


@rule(*_SPATIAL)
def spatial(t: Tracker, node: fx.Node) -> Dims:
    """The last 1, 2 or 3 dimensions are mixed, the others pass."""
    return _spatial(t, node)


def _spatial(t: Tracker, node: fx.Node) -> Dims:
    found = re.search(r"(\d)d", str(node.target))
    x = t.of(node.args[0])
    return _mixed_behind(t, node, len(x) - (int(found.group(1)) if found else len(x)))


@rule(*_SPATIAL_IN_PAIRS)
def spatial_in_pairs(t: Tracker, node: fx.Node) -> Parts:
    """The same for two results: values and where they were."""
    dims = _spatial(t, node)
    return Parts([dims, dims])


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(t: Tracker, node: fx.Node) -> Dims:
    """Positions are read where the grid says, the same ones of every channel."""
    for layout in t.of(node.args[1]):
        t.keep(layout, f"is the grid of {label(node)}")
    return _mixed_behind(t, node, 2)


def _mixed_behind(t: Tracker, node: fx.Node, count: int) -> Dims:
    x = t.of(node.args[0])
    for layout in x[count:]:
        t.keep(layout, f"mixed by {label(node)}")
    return [*x[:count], *([None] * (len(x) - count))]


@rule("softmax.int", "log_softmax.int", "_softmax", "_log_softmax", "cumsum", "cumprod")
@rule("logcumsumexp", "roll", "flip", "argsort")
def along(t: Tracker, node: fx.Node) -> Dims:
    """One dimension is mixed or reordered and keeps its size, the others pass."""
    x = list(t.of(node.args[0]))
    chosen = argument(node, 2, "dims") if "roll" in str(node.target) else argument(node, 1, "dim")
    for dim in chosen if isinstance(chosen, list | tuple) else (chosen,):
        if not isinstance(dim, int):
            raise Barrier("its dimension is not a constant")
        t.keep(x[dim], f"its channels are mixed by {label(node)}")
        x[dim] = None
    return x


# fmt: off
_REDUCTIONS = (
    "mean", "mean.dim", "sum", "sum.dim_IntList", "amax", "amin", "max", "min", "prod",
    "prod.dim_int", "argmax",
    "argmin", "var", "var.dim", "var.correction", "std", "std.dim", "std.correction", "logsumexp",
    "norm.ScalarOpt_dim",
    "linalg_vector_norm", "all", "all.dim", "all.dims", "any", "any.dim", "any.dims", "count_nonzero",
    "count_nonzero.dim_IntList", "nanmean", "nansum",
)
_REDUCED_IN_PAIRS = (
    "max.dim", "min.dim", "median.dim", "var_mean", "var_mean.dim", "var_mean.correction", "std_mean",
    "std_mean.dim", "std_mean.correction", "aminmax",
)
# fmt: on


@rule(*_REDUCTIONS)
def reduce(t: Tracker, node: fx.Node) -> Dims:
    """Dimensions that are not reduced pass.

    A sum (or a norm, a sum of powers) over channels is deaf to removed ones when they are zero. A
    mean, a variance or an extreme that is kept as a dimension of one position stands beside the
    channels it was taken from, as in LayerNorm: removed channels are left out of it. Other
    reductions keep all channels.
    """
    return _reduced(t, node, shape(node))


@rule(*_REDUCED_IN_PAIRS)
def reduce_in_pairs(t: Tracker, node: fx.Node) -> Parts:
    """The same for two results: a maximum and where it was, a variance and a mean."""
    return Parts([_reduced(t, node, sizes) for sizes in shapes_of(node)])


def _reduced(t: Tracker, node: fx.Node, sizes: tuple[int, ...] | None) -> Dims:
    x = t.of(node.args[0])
    given = argument(node, 2 if "norm" in str(node.target) else 1, "dim")
    dims = given if isinstance(given, list | tuple) else ([given] if type(given) is int else None)
    chosen = {int(str(d)) % len(x) for d in dims} if dims else set(range(len(x)))
    kind = _reading(node, kept=len(sizes or ()) == len(x))
    for dim in chosen:
        if kind is None:
            t.keep(x[dim], f"its channels are reduced by {label(node)}")
        else:
            t.read(node, node.args[0], dim, kind)
    if len(sizes or ()) == len(x):
        return [None if dim in chosen else layout for dim, layout in enumerate(x)]
    return [layout for dim, layout in enumerate(x) if dim not in chosen]


# With references in hwprune.surgery.kept_statistics.
_LEFT_OUT = frozenset(
    f"aten.{name}" for name in ("mean.dim", "amax.default", "amin.default", "var.correction", "var.dim")
)


def _reading(node: fx.Node, *, kept: bool) -> str | None:
    """How a reduction reads channels; None if they have to stay."""
    name = str(node.target)
    if name in ("aten.sum.dim_IntList", "aten.sum.default"):
        return "sum"
    if name == "aten.linalg_vector_norm.default":
        order = argument(node, 1, "ord", 2)
        return "sum" if isinstance(order, int | float) and 0 < order < math.inf else None
    return "statistics" if kept and name in _LEFT_OUT else None
