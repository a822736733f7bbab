"""Tensors that are computed from parameters alone are computed once, before fusion."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx
from torch.fx.node import map_arg

from hwprune.latency.operators import read_attribute

#: Attributes of the returned graph that hold what was computed.
_NAME = "hwprune_constant_{}"


def fold_constants(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with a parameter in the place of everything that does not depend on its inputs.

    A table of position biases that is gathered and reordered, or a weight that is scaled by its norm,
    is the same in every run. Nodes keep their names, so what is known about their sizes still holds.

    Parameters
    ----------
    graph
        A captured graph; it is not changed.

    Returns
    -------
    torch.fx.GraphModule
        ``graph`` itself where nothing is to be computed.
    """
    constant: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op == "get_attr" or _follows(node, constant):
            constant.add(node)
    folded = {
        node: _NAME.format(number)
        for number, node in enumerate(n for n in constant if n.op != "get_attr" and _is_read(n, constant))
    }
    if not folded:
        return graph
    attributes: dict[str, object] = {
        str(n.target): read_attribute(graph, n) for n in graph.graph.nodes if n.op == "get_attr"
    }
    attributes |= {folded[node]: value for node, value in _computed(graph, folded).items()}
    return fx.GraphModule(attributes, _rewritten(graph.graph, folded, constant), type(graph).__name__)


def _follows(node: fx.Node, constant: set[fx.Node]) -> bool:
    """Whether a node's one result depends on constants only."""
    inputs = node.all_input_nodes
    single = node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)
    return single and bool(inputs) and all(n in constant for n in inputs) and not _is_random(node)


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_read(node: fx.Node, constant: set[fx.Node]) -> bool:
    return any(user not in constant for user in node.users)


def _computed(graph: fx.GraphModule, wanted: Iterable[fx.Node]) -> dict[fx.Node, torch.Tensor]:
    values: dict[fx.Node, torch.Tensor] = {}

    def value(node: fx.Node) -> torch.Tensor:
        if node not in values:
            if node.op == "get_attr":
                values[node] = read_attribute(graph, node)
            else:
                assert callable(node.target)
                values[node] = node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))
        return values[node]

    with torch.no_grad():
        return {node: value(node).detach() for node in wanted}


def _rewritten(graph: fx.Graph, folded: dict[fx.Node, str], constant: set[fx.Node]) -> fx.Graph:
    new = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in folded:
            copies[node] = new.create_node("get_attr", folded[node], name=node.name)
            copies[node].meta = dict(node.meta)
        elif node not in constant or node.op == "get_attr":
            copies[node] = new.node_copy(node, lambda n: copies[n])
    for node in reversed(new.nodes):
        if node.op == "get_attr" and not node.users:
            new.erase_node(node)
    new.set_codegen(graph._codegen)  # pyright: ignore[reportPrivateUsage] - keeps input and output trees
    return new
