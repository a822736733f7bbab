"""Parts of a graph that treat the vectors along the last dimension of a tensor one by one.

Linear layers, LayerNorm and arithmetic of a transformer do so, whatever the dimensions in front are
(batch and tokens, windows and their positions, rows and columns), and what only reorders dimensions
of size one or splits and joins those in front changes nothing for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from hwprune.latency import operators as ops

aten = ops.aten
#: A linear layer at fewer positions reads its weights for little work; rows serve it as well.
FEWEST_POSITIONS = 4
#: Operators that change no more than how dimensions are counted.
RESHAPING = ops.RESHAPES | {
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze.default,
    aten.unsqueeze.default,
    aten.unflatten.int,
}


@dataclass(frozen=True)
class Region:
    """Connected nodes of which every result holds one vector for each of the same positions.

    Attributes
    ----------
    nodes
        In the order of the graph.
    like
        The linear layer whose leading dimensions say how the positions lie as a map.
    axes
        Which dimensions of ``like`` are batch, rows and columns; None for a 1.
    """

    nodes: tuple[fx.Node, ...]
    like: fx.Node
    axes: tuple[int | None, int | None, int | None]

    @property
    def lead(self) -> tuple[int, int, int]:
        """Batch, rows and columns."""
        sizes = ops.shape(self.like)
        n, h, w = (1 if axis is None else sizes[axis] for axis in self.axes)
        return n, h, w


def find_regions(graph: fx.Graph) -> list[Region]:
    """Maximal regions with a linear layer on a tensor of three or more dimensions.

    Parameters
    ----------
    graph
        A captured graph without computed constants.
    """
    members = [node for node in graph.nodes if is_pointwise(node) or is_move(node)]
    inside = set(members)
    labels: dict[fx.Node, fx.Node] = {}
    for node in members:  # every node under the first one of its region
        if node in labels:
            continue
        waiting = [node]
        while waiting:
            found = waiting.pop()
            if found not in labels:
                labels[found] = node
                waiting += [n for n in (*tensors(found), *found.users) if n in inside]
    parts: dict[fx.Node, list[fx.Node]] = {}
    for node in members:
        parts.setdefault(labels[node], []).append(node)
    return [region for part in parts.values() if (region := _region(part)) is not None]


def _region(nodes: list[fx.Node]) -> Region | None:
    layers = [n for n in nodes if n.target is aten.linear.default and len(ops.shape(n)) > 2]
    if not layers or math.prod(ops.shape(layers[0])[:-1]) < FEWEST_POSITIONS:
        return None
    like = next((n for n in layers if len(ops.shape(n)) == 4), layers[0])
    lead = ops.shape(like)[:-1]
    if len(lead) == 3:
        return Region(tuple(nodes), like, (0, 1, 2))
    long = [axis for axis, size in enumerate(lead) if size != 1]
    if len(long) > 3:
        return None  # the product of sizes that follow groups is no sum of their widths
    n, h, w = (*[None] * (3 - len(long)), *long)
    return Region(tuple(nodes), like, (n, h, w))


def tensors(node: fx.Node) -> list[fx.Node]:
    """The inputs of a member that hold one vector per position."""
    return [n for n in node.all_input_nodes if n.op != "get_attr"]


def is_move(node: fx.Node) -> bool:
    """Whether a node leaves the vectors along the last dimension, and their order, as they are."""
    if not _is_float(node) or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if node.args[0].op == "get_attr" or not _is_float(node.args[0]):
        return False
    before, after = ops.shape(node.args[0]), ops.shape(node)
    if node.target in ops.PASSING:
        return True
    if not before or not after or before[-1] != after[-1] or math.prod(before) != math.prod(after):
        return False
    if node.target in RESHAPING:
        return True
    if node.target in ops.PADS:
        return ops.is_alias(node)
    order = _order(node, len(before))
    return order is not None and order[-1] == len(before) - 1 and keeps_order(node)


def keeps_order(node: fx.Node) -> bool:
    """Whether a node is a permutation that moves no dimension but those of size one."""
    if node.target not in (aten.permute.default, aten.transpose.int):
        return False
    before = ops.shape(node.args[0])  # type: ignore[arg-type]
    order = _order(node, len(before))
    long = [axis for axis in order or () if before[axis] != 1]
    return long == sorted(long)


def _order(node: fx.Node, rank: int) -> list[int] | None:
    """Which dimensions of its input those of the result are."""
    if node.target is aten.permute.default:
        return [int(d) % rank for d in node.args[1]]  # type: ignore[union-attr, arg-type]
    if node.target is aten.transpose.int:
        one, other = (int(str(d)) % rank for d in node.args[1:3])
        order = list(range(rank))
        order[one], order[other] = other, one
        return order
    return None


def is_pointwise(node: fx.Node) -> bool:
    """Whether a node computes each vector along the last dimension from those at the same position."""
    if not _is_float(node) or len(ops.shape(node)) < 2:
        return False
    if not all(_is_float(n) for n in node.all_input_nodes):
        return False
    if node.target is aten.linear.default:
        return _are_parameters(node.args[1:]) and tensors(node) == [node.args[0]]
    if node.target is aten.layer_norm.default:
        a = ops.arguments(node)
        return len(a["normalized_shape"]) == 1 and _are_parameters((a["weight"], a["bias"]))
    if node.target in ops.UNARY:
        return True
    return node.target in ops.BINARY and _is_arithmetic(node)


def _are_parameters(values: Any) -> bool:
    return all(v is None or (isinstance(v, fx.Node) and v.op == "get_attr") for v in values)


def _is_arithmetic(node: fx.Node) -> bool:
    """Arithmetic of tensors of one shape, or of one with a number or a vector."""
    if ops.arguments(node).get("alpha", 1) != 1:
        return False
    flipped_quotient = ops.BINARY[node.target] == "div" and not _is_tensor(node.args[0])
    if flipped_quotient or not tensors(node):
        return False
    for operand in node.args[:2]:
        if not isinstance(operand, fx.Node):
            continue
        own, out = ops.shape(operand), ops.shape(node)
        if operand.op == "get_attr":
            if len(own) > len(out) or any(size != 1 for size in own[:-1]):
                return False
        elif own != out:
            return False
    return True


def _is_tensor(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op != "get_attr"


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32 and node.op != "output"
