"""Rules of layers with weights: convolutions, linear layers, slopes per channel."""

from __future__ import annotations

from torch import fx

from hwprune.dependency.arguments import argument
from hwprune.dependency.layout import Layout, length, scale
from hwprune.dependency.rules import rule
from hwprune.dependency.tracker import Barrier, Dims, Tracker, fresh, label, shape


def _bias(t: Tracker, node: fx.Node, out: Layout | None, *, index: int = 2) -> None:
    bias = argument(node, index, "bias")
    if bias is not None:
        t.tie(out, t.of(bias)[0], node)
        t.role(bias, 0, "channelwise", node)


@rule("conv1d", "conv2d", "conv3d", "conv1d.padding", "conv2d.padding", "conv3d.padding")
def convolution(t: Tracker, node: fx.Node) -> Dims:
    """Weight [O, C/groups, ...]: dimension 0 makes the output, dimension 1 reads the input."""
    weight = node.args[1]
    w, x = t.of(weight), t.of(node.args[0])
    groups = argument(node, 6, "groups", 1)
    if not isinstance(groups, int) or not isinstance(weight, fx.Node):
        raise Barrier("its group count is not a constant")
    channel = len(x) - len(w) + 1
    depthwise = groups > 1 and _size(weight, 1) == 1
    if groups == 1:
        t.tie(x[channel], w[1], node)
        out = w[0]
    elif depthwise:
        out = _depthwise(t, node, x[channel], weight, groups)
    else:
        out = _grouped(t, node, x[channel], w, groups)
    t.role(weight, 0, "channelwise" if depthwise else "producer", node)
    _consumes(t, node, weight, 1)
    if out is not None:
        t.produce(node, weight, out)
    _bias(t, node, out)
    _spatial(t, node, w[2:])
    positions = x[channel + 1 :]
    return [*x[:channel], out, *(positions if _is_pointwise(node, weight) else _spatial(t, node, positions))]


def _is_pointwise(node: fx.Node, weight: fx.Node) -> bool:
    """Whether every position is computed from itself alone: what is a position there passes."""
    strides, paddings = argument(node, 3, "stride", 1), argument(node, 4, "padding", 0)
    return (
        all(size == 1 for size in (shape(weight) or ())[2:])
        and all(n == 1 for n in _each(strides))
        and (isinstance(paddings, str) or all(n == 0 for n in _each(paddings)))
    )


def _each(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _consumes(t: Tracker, node: fx.Node, weight: fx.Node, dim: int) -> None:
    """``node`` reads with a dimension of its weight, which may be computed."""
    t.role(weight, dim, "consumer", node)
    if weight.op != "get_attr":
        t.read(node, weight, dim)


def _spatial(t: Tracker, node: fx.Node, dims: Dims) -> Dims:
    for layout in dims:
        t.keep(layout, f"mixed by {label(node)}")
    return [None] * len(dims)


def _size(node: fx.Node, dim: int) -> int:
    sizes = shape(node)
    if sizes is None:
        raise Barrier(f"argument {node.name!r} is not a tensor")
    return sizes[dim]


def _depthwise(t: Tracker, node: fx.Node, x: Layout | None, weight: fx.Node, groups: int) -> Layout | None:
    """Input channel c makes output channels c*m .. (c+1)*m - 1: one unit."""
    out = None if x is None else scale(x, _size(weight, 0) // groups)
    t.tie(t.of(weight)[0], out, node)
    return t.of(weight)[0]


def _grouped(t: Tracker, node: fx.Node, x: Layout | None, w: Dims, groups: int) -> Layout | None:
    """The same position of every group is one unit, on both sides."""
    if w[0] is None or w[1] is None:
        for layout in (x, w[0], w[1]):
            t.keep(layout, f"its weight is computed at {label(node)}")
        return w[0]
    t.tie(x, w[1] * groups, node)
    t.tie(w[0], fresh(length(w[0]) // groups) * groups, node)
    return w[0]


@rule("conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input")
def transposed_convolution(t: Tracker, node: fx.Node) -> Dims:
    """Weight [C, O/groups, ...]: dimension 0 reads, dimension 1 makes.

    As in a grouped convolution, the same position of every group is one unit on both sides; with
    one input channel per group, a unit is an input channel and the outputs that it makes.
    """
    weight = node.args[1]
    groups = argument(node, 6, "groups", 1)
    if not isinstance(groups, int) or not isinstance(weight, fx.Node):
        raise Barrier("its group count is not a constant")
    w, x = t.of(weight), t.of(node.args[0])
    channel = len(x) - len(w) + 1
    t.tie(x[channel], w[0], node)
    out = w[1]
    if groups > 1 and groups == _size(weight, 0):
        t.keep(w[1], f"outputs of one channel at {label(node)}")
        out = None if w[0] is None else scale(w[0], _size(weight, 1))
        t.role(weight, 0, "channelwise", node)
    else:
        if groups > 1 and w[0] is not None:
            t.tie(w[0], fresh(length(w[0]) // groups) * groups, node)
        out = None if w[1] is None else w[1] * groups
        t.role(weight, 1, "producer", node)
        _consumes(t, node, weight, 0)
    if out is not None:
        t.produce(node, weight, out)
    _bias(t, node, out)
    _spatial(t, node, w[2:])
    return [*x[:channel], out, *_spatial(t, node, x[channel + 1 :])]


@rule("linear")
def linear(t: Tracker, node: fx.Node) -> Dims:
    """Weight [out, in] on the last dimension of the input."""
    weight = node.args[1]
    w, x = t.of(weight), t.of(node.args[0])
    if not isinstance(weight, fx.Node) or len(w) != 2:
        raise Barrier("its weight is not a matrix")
    t.tie(x[-1], w[1], node)
    t.role(weight, 0, "producer", node)
    _consumes(t, node, weight, 1)
    if w[0] is not None:
        t.produce(node, weight, w[0])
    _bias(t, node, w[0])
    return [*x[:-1], w[0]]


@rule("prelu")
def prelu(t: Tracker, node: fx.Node) -> Dims:
    """One slope for all, or one per channel."""
    x, slope = t.of(node.args[0]), t.of(node.args[1])
    if slope and isinstance(node.args[1], fx.Node) and _size(node.args[1], 0) > 1:
        t.tie(x[min(1, len(x) - 1)], slope[0], node)
    return x


@rule("grid_sampler")
def grid_sampler(t: Tracker, node: fx.Node) -> Dims:
    """Every channel is sampled at the same places."""
    x = t.of(node.args[0])
    _spatial(t, node, t.of(node.args[1]))
    return [*x[:2], *_spatial(t, node, x[2:])]


@rule("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
def recurrent(t: Tracker, node: fx.Node) -> Dims:
    """Declined: four gates in one weight, which the next step reads again."""
    raise Barrier("recurrent layers keep their width")
