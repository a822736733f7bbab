"""The layers that make the model's outputs, and what they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import fx

from hwprune.importance.consumers import consumer_of
from hwprune.importance.shared import POINTWISE

#: Operators behind the last layer that keep what it wrote together.
_CARRIES = POINTWISE | frozenset(
    (
        "aten.view.default", "aten.reshape.default", "aten.flatten.using_ints", "aten.permute.default",
        "aten.transpose.int", "aten.squeeze.dim", "aten.squeeze.default", "aten.squeeze.dims",
        "aten.unsqueeze.default", "aten.softmax.int", "aten._softmax.default", "aten.log_softmax.int",
        "aten._log_softmax.default",
    )
)  # fmt: skip


@dataclass(frozen=True)
class FinalLayer:
    """A convolution or linear layer whose output, but for activations and shape, is an output of the model.

    ``reads`` is the node that it reads, ``dim`` that node's dimension of features.
    """

    node: str
    reads: str
    dim: int


def final_layers(graph: fx.GraphModule) -> tuple[list[FinalLayer], list[str]]:
    """The layers behind the model's outputs, and the nodes of outputs that have none."""
    layers: dict[str, FinalLayer] = {}
    others: list[str] = []
    output = next(node for node in graph.graph.nodes if node.op == "output")
    for start in output.all_input_nodes:
        node = start
        while str(node.target) in _CARRIES and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        consumer = consumer_of(node)
        if consumer is None:
            others.append(start.name)
        else:
            read = cast("fx.Node", node.args[0])
            dim = -1 if consumer.kind == "linear" else 1
            layers[node.name] = FinalLayer(node.name, read.name, dim)
    return list(layers.values()), others


def features_of(layer: FinalLayer, value: torch.Tensor) -> torch.Tensor:
    """What a final layer reads, ``[N, m]``: the mean over positions."""
    moved = value.movedim(layer.dim, -1)
    return moved if moved.ndim < 3 else moved.flatten(1, -2).mean(1)
