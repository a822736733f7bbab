"""Kernel operators of nodes that must be read in NCHW order, and of layers with weights."""

from __future__ import annotations

from typing import Any

from torch import fx

from hwprune.latency import anchors
from hwprune.latency import operators as ops
from hwprune.latency.folding import ONE, Read, Weight
from hwprune.latency.kernel import KernelOp
from hwprune.latency.views import Views

aten = ops.aten


def weights_of(node: fx.Node, views: Views) -> tuple[KernelOp | None, KernelOp, Weight, Weight | None, int]:
    """Operators, weight and bias of a convolution or linear layer.

    The first operator, if any, goes in front; the last number is the axis of the node (in NCHW
    order) that holds its output channels.
    """
    if node.target is aten.conv_transpose2d.input:
        before, op = anchors.transposed(node)
        return before, op, _transposed_weight(node), _bias(node), 1
    if len(ops.shape(node)) not in (2, 4) or node.args[1].op != "get_attr":  # type: ignore[union-attr]
        raise ops.unsupported(node, "has no kernel for these shapes, or with a weight that is computed")
    if node.target is not aten.linear.default:
        return None, anchors.WEIGHTED[node.target](node), _plain_weight(node), _bias(node), 1
    if len(ops.shape(node)) == 2:
        return None, KernelOp("linear", ()), _plain_weight(node), _bias(node), 1
    if node not in views.last:
        raise ops.unsupported(node, "over the last dimension of a feature map has no kernel")
    pointwise = ops.attributes(stride=(1, 1), dilation=(1, 1), padding=(0, 0, 0, 0), groups=1)
    matrix: Any = node.args[1]
    weight = Weight(matrix, (0, 1, ONE, ONE), lambda read: read(matrix)[:, :, None, None])
    return None, KernelOp("conv2d", (), pointwise), weight, _bias(node), 1


def _plain_weight(node: fx.Node) -> Weight:
    weight: Any = node.args[1]
    return Weight(weight, None, lambda read: read(weight))


def _bias(node: fx.Node) -> Weight | None:
    bias: Any = ops.arguments(node).get("bias")
    return None if bias is None else Weight(bias, None, lambda read: read(bias))


def _transposed_weight(node: fx.Node) -> Weight:
    """The kernel turned by 180 degrees, output channels first."""
    weight: Any = node.args[1]
    groups = int(ops.arguments(node)["groups"])
    if groups > 1:
        raise ops.unsupported(node, "with groups has no kernel")

    def compute(read: Read) -> Any:
        return read(weight).flip(2, 3).transpose(0, 1)

    return Weight(weight, (1, 0, 2, 3), compute)


def layer_norm(node: fx.Node, views: Views) -> tuple[KernelOp, Weight | None, Weight | None]:
    """LayerNorm over channels: the last dimension of [N,C] or of a channels-last map.

    Raises
    ------
    UnsupportedOperatorError
        It runs over anything else.
    """
    a = ops.arguments(node)
    rank = len(ops.shape(node))
    if len(a["normalized_shape"]) != 1 or rank not in (2, 4) or views.axis(node, -1) != 1:
        raise ops.unsupported(node, "has a kernel over channels only")

    def vector(parameter: Any) -> Weight | None:
        return None if parameter is None else Weight(parameter, None, lambda read: read(parameter))

    op = KernelOp("layer_norm", (), ops.attributes(eps=float(a["eps"])))
    return op, vector(a["weight"]), vector(a["bias"])


def _mean(node: fx.Node, views: Views) -> KernelOp:
    a = ops.arguments(node)
    source: Any = node.args[0]
    rank = len(ops.shape(source))
    dims = sorted(views.axis(source, int(d)) for d in (a["dim"] or range(rank)))
    if rank != 4 or dims != [2, 3] or a["dtype"] is not None:
        raise ops.unsupported(node, "has a kernel over height and width of a feature map only")
    return KernelOp("mean_hw", (), ops.attributes(keepdim=int(bool(a["keepdim"]))))


def _softmax(node: fx.Node, views: Views) -> KernelOp:
    a = ops.arguments(node)
    if views.axis(node, int(a["dim"])) != 1 or len(ops.shape(node)) not in (2, 4) or a["dtype"] is not None:
        raise ops.unsupported(node, "has a kernel over channels only")
    return KernelOp("softmax", ())


def map_rule(node: fx.Node, views: Views) -> KernelOp:
    """Operator of one feature map.

    Raises
    ------
    UnsupportedOperatorError
        There is no rule.
    """
    if node.target is aten.mean.dim:
        return _mean(node, views)
    if node.target is aten.softmax.int:
        return _softmax(node, views)
    if node.target not in anchors.UNWEIGHTED:
        raise ops.unsupported(node, "has no kernel")
    source: Any = node.args[0]
    if len(ops.shape(source)) != 4 or source in views.last:
        raise ops.unsupported(node, "has a kernel for feature maps only")
    return anchors.UNWEIGHTED[node.target](node)
