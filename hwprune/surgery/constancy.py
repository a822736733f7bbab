"""Channels that have one value at every position, whatever the input: found by walking the graph.

A BatchNorm whose scale is zero makes such channels, so does a layer with rows of zeros; activations,
pooling and layers that read nothing else hand them on. One small function per operator; what an
operator without one makes is taken to vary.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import fx

from hwprune.capture.captured import Captured
from hwprune.dependency.tracker import shape


@dataclass(frozen=True)
class Known:
    """Along ``dim``, index i has the value ``values[i]`` everywhere if ``mask[i]``.

    ``values`` is float64 and zero where the mask is false.
    """

    dim: int
    values: torch.Tensor
    mask: torch.Tensor

    @staticmethod
    def of(dim: int, values: torch.Tensor, mask: torch.Tensor) -> Known:
        mask = mask & values.isfinite()
        return Known(dim, torch.where(mask, values, 0.0), mask)


class Constancy:
    """What is known of every node of a graph."""

    def __init__(self, captured: Captured) -> None:
        self.module = captured.graph
        self.known: dict[fx.Node, Known] = {}
        with torch.no_grad():
            for node in self.module.graph.nodes:
                rule = RULES.get(str(node.target)) if node.op == "call_function" else None
                found = rule(self, node) if rule is not None and shape(node) is not None else None
                if found is not None and bool(found.mask.any()):
                    self.known[node] = found

    def of(self, value: object) -> Known | None:
        """What is known of an argument."""
        return self.known.get(value) if isinstance(value, fx.Node) else None

    def tensor(self, value: object) -> torch.Tensor | None:
        """A parameter, buffer or constant in double precision, None for anything else."""
        if not isinstance(value, fx.Node) or value.op != "get_attr":
            return None
        found = operator.attrgetter(str(value.target))(self.module)
        return found.detach().double().cpu() if isinstance(found, torch.Tensor) else None


Rule: TypeAlias = Callable[[Constancy, fx.Node], Known | None]
RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for name in names:
            RULES[f"aten.{name}" if "." in name else f"aten.{name}.default"] = function
        return function

    return register


@_rule("clone", "contiguous", "dropout", "feature_dropout", "alpha_dropout", "identity", "to.dtype")
def _same(c: Constancy, node: fx.Node) -> Known | None:
    return c.of(node.args[0])


# fmt: off
_FUNCTIONS = (
    "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid", "tanh",
    "leaky_relu", "elu", "selu", "celu", "mish", "softplus", "clamp", "clamp_min", "clamp_max", "exp",
    "neg", "abs", "sqrt", "square", "pow.Tensor_Scalar",
)
# fmt: on


@_rule(*_FUNCTIONS)
def _function(c: Constancy, node: fx.Node) -> Known | None:
    x = c.of(node.args[0])
    if x is None or any(isinstance(a, fx.Node) for a in [*node.args[1:], *node.kwargs.values()]):
        return None
    assert callable(node.target)
    return Known.of(x.dim, node.target(x.values, *node.args[1:], **node.kwargs), x.mask)


@_rule("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor")
def _combination(c: Constancy, node: fx.Node) -> Known | None:
    known = [(k, len(shape(a) or ())) for a in node.args[:2] if isinstance(a, fx.Node) and (k := c.of(a))]
    sizes = shape(node) or ()
    if not known:
        return None
    from_right = {k.dim - rank for k, rank in known}
    size = known[0][0].values.numel()
    if len(from_right) != 1 or sizes[min(from_right)] != size:
        return None
    (dim,) = from_right
    sides = [_operand(c, argument, dim, size) for argument in node.args[:2]]
    (a, has_a), (b, has_b) = sides
    assert callable(node.target)
    values, mask = node.target(a, b, **node.kwargs), has_a & has_b
    if str(node.target) == "aten.mul.Tensor":  # nothing that is finite survives a zero
        zero = (has_a & (a == 0)) | (has_b & (b == 0))
        values, mask = torch.where(zero, 0.0, values), mask | zero
    return Known.of(len(sizes) + dim, values, mask)


def _operand(c: Constancy, argument: object, dim: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values along a dimension (counted from the right) and where they are known."""
    known, every = c.of(argument), torch.ones(size, dtype=torch.bool)
    if known is not None and known.values.numel() == size:
        return known.values, known.mask
    value = c.tensor(argument)
    if isinstance(argument, int | float):
        return torch.full((size,), float(argument), dtype=torch.float64), every
    if value is not None and value.numel() == 1:
        return value.reshape(1).expand(size), every
    if value is not None and value.dim() >= -dim and value.shape[dim] == size == value.numel():
        return value.flatten(), every
    return torch.zeros(size, dtype=torch.float64), ~every


@_rule("batch_norm")
def _batch_norm(c: Constancy, node: fx.Node) -> Known | None:
    weight, bias, mean, var = (c.tensor(a) for a in node.args[1:5])
    if node.args[5] or weight is None or mean is None or var is None:
        return None
    bias = torch.zeros_like(weight) if bias is None else bias
    x, silent = c.of(node.args[0]), weight == 0
    centred = -mean if x is None or x.dim != 1 else x.values - mean
    mask = silent if x is None or x.dim != 1 else silent | x.mask
    scale = weight / (var + float(str(node.args[7]))).sqrt()
    return Known.of(1, torch.where(silent, bias, bias + scale * centred), mask)


@_rule("conv1d", "conv2d", "conv3d", "linear")
def _layer(c: Constancy, node: fx.Node) -> Known | None:
    """Rows that read constants only, or nothing."""
    x, weight = c.of(node.args[0]), c.tensor(node.args[1])
    bias = node.args[2] if len(node.args) > 2 else None
    shift = c.tensor(bias)
    if weight is None or (bias is not None and shift is None):
        return None
    rank = len(shape(node) or ())
    dim = rank - 1 if weight.dim() == 2 else rank - weight.dim() + 1
    index = input_channels(node, weight)
    values, mask = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.bool)
    if x is not None and x.dim == dim:
        values, mask = x.values[index], x.mask[index]
    flat = weight.flatten(2) if weight.dim() > 2 else weight[:, :, None]
    unread = (flat == 0).all(2)
    usable = (mask & (values == 0)) if is_padded(node) else mask
    total = (flat.sum(2) * values * (usable & ~unread)).sum(1)
    return Known.of(dim, total if shift is None else total + shift, (usable | unread).all(1))


def input_channels(node: fx.Node, weight: torch.Tensor) -> torch.Tensor:
    """Input channel that every entry ``[o, i]`` of a layer's weight reads."""
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    count = groups if isinstance(groups, int) and weight.dim() > 2 else 1
    group = torch.arange(weight.shape[0]) // (weight.shape[0] // count)
    return torch.arange(weight.shape[1]) + (group * weight.shape[1])[:, None]


def is_padded(node: fx.Node) -> bool:
    """Whether a convolution pads its input with zeros."""
    padding = node.args[4] if len(node.args) > 4 else node.kwargs.get("padding", 0)
    if str(node.target) == "aten.linear.default" or padding == "valid":
        return False
    return any(p != 0 for p in padding) if isinstance(padding, list | tuple) else bool(padding)


@_rule("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d")
@_rule("adaptive_avg_pool3d", "upsample_nearest2d.vec", "upsample_bilinear2d.vec")
def _pool(c: Constancy, node: fx.Node) -> Known | None:
    x = c.of(node.args[0])
    spatial = next(int(d) for d in str(node.target) if d.isdigit())
    return x if x is not None and x.dim < len(shape(node) or ()) - spatial else None


@_rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _average(c: Constancy, node: fx.Node) -> Known | None:
    x = _pool(c, node)
    if x is None:
        return None
    simple = len(node.args) < 4 or (not any(_flat(node.args[3])) and not any(_flat(node.args[4:])))
    return x if simple else Known.of(x.dim, x.values, x.mask & (x.values == 0))


def _flat(value: object) -> list[object]:
    return [leaf for part in value for leaf in _flat(part)] if isinstance(value, list | tuple) else [value]


@_rule("mean.dim")
def _mean(c: Constancy, node: fx.Node) -> Known | None:
    x, rank = c.of(node.args[0]), len(shape(node.args[0]) or ()) if isinstance(node.args[0], fx.Node) else 0
    dims = node.args[1] if len(node.args) > 1 else None
    if x is None or not isinstance(dims, list | tuple):
        return None
    gone = {int(str(d)) % rank for d in dims}
    if x.dim in gone:
        return None
    kept = len(shape(node) or ()) == rank
    return Known(x.dim if kept else x.dim - sum(d < x.dim for d in gone), x.values, x.mask)


@_rule("view", "reshape", "flatten.using_ints", "squeeze", "squeeze.dim", "squeeze.dims", "unsqueeze")
def _reshape(c: Constancy, node: fx.Node) -> Known | None:
    """The channel dimension stays, or takes in the dimensions behind it."""
    x = c.of(node.args[0])
    before = shape(node.args[0]) if isinstance(node.args[0], fx.Node) else None
    after = shape(node)
    if x is None or before is None or after is None:
        return None
    size, lead = x.values.numel(), math.prod(before[: x.dim])
    behind = {math.prod(before[x.dim + 1 : end]) for end in range(x.dim + 1, len(before) + 1)}
    for dim in range(len(after)):
        times = after[dim] // size
        if math.prod(after[:dim]) == lead and after[dim] == times * size and times in behind:
            return Known(dim, x.values.repeat_interleave(times), x.mask.repeat_interleave(times))
    return None


@_rule("permute", "transpose.int")
def _permute(c: Constancy, node: fx.Node) -> Known | None:
    x, rank = c.of(node.args[0]), len(shape(node) or ())
    if x is None:
        return None
    order = list(range(rank))
    if str(node.target) == "aten.permute.default":
        order = [int(str(d)) % rank for d in _flat(node.args[1])]
    else:
        a, b = (int(str(d)) % rank for d in node.args[1:3])
        order[a], order[b] = order[b], order[a]
    return Known(order.index(x.dim), x.values, x.mask)


@_rule("cat")
def _concatenation(c: Constancy, node: fx.Node) -> Known | None:
    tensors = node.args[0]
    if not isinstance(tensors, Sequence):
        return None
    at = int(str(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0))) % len(shape(node) or ())
    values: list[torch.Tensor] = []
    masks: list[torch.Tensor] = []
    for tensor in tensors:
        known = c.of(tensor)
        sizes = shape(tensor) if isinstance(tensor, fx.Node) else None
        if sizes is None or (known is not None and known.dim != at):
            return None
        empty = torch.zeros(sizes[at], dtype=torch.float64)
        values.append(empty if known is None else known.values)
        masks.append(empty.bool() if known is None else known.mask)
    return Known(at, torch.cat(values), torch.cat(masks))
