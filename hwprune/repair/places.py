"""Which layers of a pruned graph are fitted anew, and what lies around each."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from hwprune.importance.consumers import Consumer, consumer_of

_NORM = "aten.batch_norm.default"
_SUM = "aten.add.Tensor"
_PASSING = frozenset({"aten.dropout.default", "aten.feature_dropout.default", "aten.clone.default"})


@dataclass(frozen=True)
class Sink:
    """Where a shift of a layer's output goes: added to a bias, or taken from a BatchNorm's mean."""

    kind: Literal["bias", "mean"]
    name: str


@dataclass(frozen=True)
class Norm:
    """A BatchNorm that alone reads a layer: the names of its vectors, and its epsilon."""

    node: str
    scale: str | None
    mean: str
    variance: str
    eps: float


@dataclass(frozen=True)
class Sum:
    """Names of a sum, and of its operand that comes from a layer."""

    node: str
    tail: str


@dataclass(frozen=True)
class Place:
    """A layer of the pruned graph and its surroundings.

    Attributes
    ----------
    consumer, node
        The layer and its node in the pruned graph.
    input
        Name of the node that it reads.
    sink
        Where its bias can go, None if it has to stay.
    norm
        BatchNorm behind it, if that is all that reads it.
    sum
        The sum that the layer's output (behind the BatchNorm) goes into and nothing else reads; None
        where there is none.
    """

    consumer: Consumer
    node: fx.Node
    input: str
    sink: Sink | None
    norm: Norm | None
    sum: Sum | None


def find_places(graph: fx.GraphModule, owned: Mapping[str, torch.Tensor]) -> tuple[Place, ...]:
    """Layers whose weight can be fitted, in the order in which they are computed.

    Parameters
    ----------
    graph
        The pruned graph.
    owned
        Tensors of the pruned model by name; a weight that is not among them (computed in its code)
        or that is used twice is left out.
    """
    users: dict[int, int] = {}
    for node in graph.graph.nodes:
        tensor = owned.get(str(node.target)) if node.op == "get_attr" else None
        if tensor is not None:
            users[id(tensor)] = users.get(id(tensor), 0) + len(node.users)

    def single(name: str | None) -> bool:
        tensor = None if name is None else owned.get(name)
        return tensor is not None and users.get(id(tensor)) == 1

    places: list[Place] = []
    for node in graph.graph.nodes:
        consumer = consumer_of(node)
        if consumer is None or not single(consumer.weight):
            continue
        source = node.args[0]
        if not isinstance(source, fx.Node) or source.op == "get_attr":
            continue
        norm = _norm(node)
        sink = None
        if consumer.bias is not None:
            sink = Sink("bias", consumer.bias) if single(consumer.bias) else None
        elif norm is not None and single(norm.mean):
            sink = Sink("mean", norm.mean)
        places.append(Place(consumer, node, source.name, sink, norm, _sum(node, norm)))
    return tuple(places)


def tensor_at(graph: fx.GraphModule, name: str) -> torch.Tensor:
    """A parameter or buffer of a graph."""
    value: torch.Tensor = operator.attrgetter(name)(graph)
    return value


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _norm(node: fx.Node) -> Norm | None:
    user = _only_user(node)
    if user is None or str(user.target) != _NORM or user.args[0] is not node or user.args[5]:
        return None
    scale, _, mean, variance = (
        str(a.target) if isinstance(a, fx.Node) and a.op == "get_attr" else None for a in user.args[1:5]
    )
    if mean is None or variance is None:
        return None
    return Norm(user.name, scale, mean, variance, float(str(user.args[7])))


def _sum(node: fx.Node, norm: Norm | None) -> Sum | None:
    """The sum that a layer's output goes into."""
    tail = node if norm is None else next(iter(node.users))
    user = _only_user(tail)
    while user is not None and str(user.target) in _PASSING:
        tail, user = user, _only_user(user)
    if user is None or str(user.target) != _SUM or user.kwargs.get("alpha", 1) != 1:
        return None
    return Sum(user.name, tail.name)


def other_operand(nodes: Mapping[str, fx.Node], found: Sum, layer: str) -> str | None:
    """What a layer's output is added to, if it is known before the layer is computed.

    ``nodes`` are all nodes of one graph in their order: the original and a pruned one without some of
    its blocks may have different answers.
    """
    order = {name: number for number, name in enumerate(nodes)}
    if found.node not in nodes or found.tail not in nodes:
        return None
    operands = nodes[found.node].args[:2]
    others = [a for a in operands if isinstance(a, fx.Node) and a.name != found.tail]
    if len(others) != 1 or others[0].op == "get_attr":
        return None
    same = others[0].meta["val"].shape == nodes[found.tail].meta["val"].shape
    return others[0].name if same and order[others[0].name] < order[layer] else None
