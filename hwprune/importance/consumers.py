"""Layers that read channels through a weight: convolutions and linear layers of a captured graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

from torch import fx

from hwprune.dependency.arguments import argument
from hwprune.dependency.groups import ChannelGroup

Kind = Literal["convolution", "linear"]

_CONVOLUTIONS = {
    f"aten.conv{rank}d.{overload}": rank for rank in (1, 2, 3) for overload in ("default", "padding")
}
_LINEAR = "aten.linear.default"


@dataclass(frozen=True)
class Consumer:
    """A layer that reads channels through a weight: a convolution (grouped or not) or a linear layer.

    Attributes
    ----------
    node
        Name of the node that computes it.
    weight, bias
        Names of its parameters; ``bias`` is None where there is none.
    kind
        What it is.
    groups
        Of the convolution.
    kernel
        Positions of the filter: k*k.
    """

    node: str
    weight: str
    bias: str | None
    kind: Kind
    groups: int
    kernel: int


def consumer_of(node: fx.Node) -> Consumer | None:
    """What a node is as a consumer; None where it is none, or its weight is computed on the way."""
    target = str(node.target)
    if node.op != "call_function" or (target not in _CONVOLUTIONS and target != _LINEAR):
        return None
    weight, bias = node.args[1], argument(node, 2, "bias", None)
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return None
    if bias is not None and (not isinstance(bias, fx.Node) or bias.op != "get_attr"):
        return None
    name = None if bias is None else str(bias.target)
    if target == _LINEAR:
        return Consumer(node.name, str(weight.target), name, "linear", 1, 1)
    if len(node.meta["val"].shape) != _CONVOLUTIONS[target] + 2:  # one example without a batch dimension
        return None
    kernel = math.prod(weight.meta["val"].shape[2:])
    groups = argument(node, 6, "groups", 1)
    return Consumer(node.name, str(weight.target), name, "convolution", cast("int", groups), kernel)


def consumers_of(graph: fx.GraphModule, group: ChannelGroup | None = None) -> tuple[Consumer, ...]:
    """The consumers of a group, or all of a graph, in the order in which they are computed.

    Layers that are no convolution and no linear layer (matrix products with a weight, transposed
    convolutions) are not among them.
    """
    names = None if group is None else {m.node for m in group.members if m.role == "consumer"}
    found = (consumer_of(node) for node in graph.graph.nodes if names is None or node.name in names)
    return tuple(consumer for consumer in found if consumer is not None)
