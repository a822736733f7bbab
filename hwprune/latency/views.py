"""Which tensors of a graph lie channels last, and how every tensor looks in NCHW order.

Kernels keep feature maps packed by channel blocks, so ``permute`` to and from channels-last moves
nothing: it only changes how the graph counts dimensions. A permutation whose result is used in a
way that no kernel understands is *blocked*: it is computed, like any other operator.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

from torch import fx

from hwprune.latency import operators as ops

T = TypeVar("T")
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_FOLLOWING = frozenset(
    (*ops.UNARY, *ops.BINARY, ops.aten.linear.default, ops.aten.layer_norm.default, *ops.PASSING)
)


def permutation(node: fx.Node) -> tuple[int, ...] | None:
    """Order of a four-dimensional ``permute``; None for anything else."""
    if node.target is not ops.aten.permute.default or len(ops.shape(node)) != 4:
        return None
    return tuple(int(d) % 4 for d in node.args[1])  # type: ignore[union-attr, arg-type]


class Views:
    """Dimension orders of a graph. ``last`` maps channels-last nodes to the permutes they stem from."""

    def __init__(self, graph: fx.GraphModule, blocked: Collection[fx.Node] = ()) -> None:
        self.blocked = set(blocked)
        self.last: dict[fx.Node, frozenset[fx.Node]] = {}
        while True:
            refused = self._mark(graph)
            if not refused:
                break
            self.blocked |= refused

    def _mark(self, graph: fx.GraphModule) -> frozenset[fx.Node]:
        """One pass; permutes whose results are not understood."""
        self.last = {}
        for node in graph.graph.nodes:
            sources = [n for n in node.all_input_nodes if n in self.last]
            order = permutation(node) if node.op == "call_function" else None
            if order == TO_LAST and not sources and node not in self.blocked:
                self.last[node] = frozenset((node,))
            elif sources and order != TO_FIRST:
                origins = frozenset[fx.Node]().union(*(self.last[n] for n in sources))
                if not self._follows(node):
                    return origins
                if len(ops.shape(node)) == 4:
                    self.last[node] = origins
        return frozenset()

    def _follows(self, node: fx.Node) -> bool:
        """Whether the result of an operator on channels-last tensors is channels-last (or [N,C])."""
        if node.op != "call_function":
            return False
        if node.target is ops.aten.mean.dim:
            dims = ops.arguments(node)["dim"] or ()
            return sorted(int(d) % 4 for d in dims) == [1, 2]
        if node.target not in _FOLLOWING or len(ops.shape(node)) != 4:
            return False
        maps = [n for n in node.all_input_nodes if n.op != "get_attr" and len(ops.shape(n)) == 4]
        return all(n in self.last for n in maps)

    def is_alias(self, node: fx.Node) -> bool:
        """Whether the node only hands its first input on, seen in NCHW order."""
        order = permutation(node)
        if order is not None:
            return node in self.last or (order == TO_FIRST and node.args[0] in self.last)
        return ops.is_alias(node)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape in NCHW order."""
        return tuple(self.order(node, ops.shape(node)))

    def order(self, node: fx.Node, dims: Sequence[T]) -> Sequence[T]:
        """What belongs to the dimensions of a node, in NCHW order."""
        return [dims[d] for d in TO_FIRST] if node in self.last and len(dims) == 4 else dims

    def axis(self, node: fx.Node, dim: int) -> int:
        """Position in NCHW order of a dimension of a node."""
        rank = len(ops.shape(node))
        return TO_LAST[dim % rank] if node in self.last else dim % rank
