"""Reshapes of reshapes: only the last of them is computed."""

from __future__ import annotations

from torch import fx

from hwprune.latency import operators as ops
from hwprune.latency.regions import RESHAPING, keeps_order
from hwprune.latency.views import TO_FIRST, TO_LAST, permutation


def join_reshapes(graph: fx.Graph) -> None:
    """Let every reshape read what the reshapes in front of it read; those without readers are dropped.

    Operators that only take a dimension apart, join some, or move dimensions of size one are reshapes.
    """
    for node in graph.nodes:
        if not _is_reshape(node):
            continue
        source = node.args[0]
        while _is_reshape(source) or source.target in ops.PASSING:
            source = source.args[0]
        if source is not node.args[0] or node.target not in ops.RESHAPES:
            node.target = ops.aten.reshape.default
            node.args, node.kwargs = (source, list(ops.shape(node))), {}
    for node in reversed(graph.nodes):
        if not node.users and (_is_reshape(node) or node.target in ops.PASSING):
            graph.erase_node(node)


def _is_reshape(node: fx.Node) -> bool:
    if node.op != "call_function" or permutation(node) in (TO_FIRST, TO_LAST):
        return False
    return node.target in RESHAPING or keeps_order(node)
