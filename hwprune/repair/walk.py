"""A graph run on data up to one layer after another, with bounded memory."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from hwprune.errors import RepairError
from hwprune.importance.batches import Batch
from hwprune.importance.values import bind


class Walk:
    """Runs a graph on some batches as far as is asked, and goes on from there the next time.

    What lies between two nodes (the tensors that later nodes still need) is kept for all batches
    where it fits the budget, so that walking through a whole network costs little more than one
    forward pass. Where it does not (the first maps of a network at a high resolution), the walk
    begins again at the last place that fitted, one batch at a time.

    Weights are read when a node runs: they may change ahead of the walk.

    Parameters
    ----------
    graph
        A captured graph, in evaluation mode.
    batches
        Its data, kept here.
    budget_bytes
        What may be kept between two nodes, for all batches together.
    """

    def __init__(self, graph: fx.GraphModule, batches: Sequence[Batch], budget_bytes: float) -> None:
        self.nodes: list[fx.Node] = list(graph.graph.nodes)
        self.order = {node.name: number for number, node in enumerate(self.nodes)}
        self._graph = graph
        self._budget = budget_bytes
        self._sizes = [max(1, batch.size) for batch in batches]
        self._last: dict[fx.Node, int] = {}
        for number, node in enumerate(self.nodes):
            for operand in node.all_input_nodes:
                self._last[operand] = number
        placeholders = [node for node in self.nodes if node.op == "placeholder"]
        # Stored values by node, each batch's after all nodes before ``_at``.
        self._at = 0
        self._stored: list[dict[fx.Node, Any]] = []
        for batch in batches:
            self._stored.append(dict(zip(placeholders, bind(graph, batch), strict=True)))
            _check_sizes(self._stored[-1])
        self.nodes_run = 0
        #: The most that would have had to be kept where it did not fit; 0 if all did.
        self.short_of = 0.0

    def __len__(self) -> int:
        return len(self._stored)

    def until(self, node: str, *, after: bool = False) -> Iterator[dict[str, Any]]:
        """Per batch the values, by node name, that are needed at a node or later.

        Parameters
        ----------
        node
            Where to stop: before it, or after it (its own value is then there, too). Never before
            the place of an earlier call.
        """
        end = self.order[node] + (1 if after else 0)
        keep = self.nodes[end - 1] if after else None
        if end < self._at:
            raise RepairError(f"the walk is past {node!r}", hint="ask for layers in their order")
        store = None
        for number, (size, before) in enumerate(zip(self._sizes, self._stored, strict=True)):
            values = self._run(before, end, keep)
            if store is None:
                whole = _bytes(values) * sum(self._sizes) / size
                store = whole <= self._budget
                self.short_of = max(self.short_of, 0.0 if store else whole)
            if store:
                self._stored[number] = values
            yield {found.name: value for found, value in values.items()}
        if store:
            self._at = end

    def _run(self, before: dict[fx.Node, Any], end: int, keep: fx.Node | None) -> dict[fx.Node, Any]:
        values = dict(before)
        with torch.no_grad():
            for number in range(self._at, end):
                node = self.nodes[number]
                if node.op == "call_function":
                    self.nodes_run += 1
                    args, kwargs = map_arg((node.args, node.kwargs), lambda n: self._value(n, values))
                    assert callable(node.target)
                    values[node] = node.target(*args, **kwargs)
                elif node.op not in ("placeholder", "get_attr"):
                    raise RepairError(
                        f"node {node.name!r} is a {node.op}, which the repair cannot run",
                        hint="repair this network by recalibration and fine-tuning",
                    )
                for operand in node.all_input_nodes:
                    if self._last[operand] == number:
                        values.pop(operand, None)
                if self._last.get(node, -1) < number and node is not keep:
                    values.pop(node, None)
        return values

    def _value(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self._graph)
        return values[node]


def _check_sizes(values: dict[fx.Node, Any]) -> None:
    for node, value in values.items():
        like = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or not isinstance(like, torch.Tensor):
            continue
        if value.shape[1:] != like.shape[1:]:
            wanted = ", ".join(["batch", *map(str, like.shape[1:])])
            raise RepairError(
                f"the data for the repair have shape {tuple(value.shape)} for input {node.name}, "
                f"and the model was captured for ({wanted})",
                hint="only the batch size may differ from the example inputs",
            )


def _bytes(values: dict[fx.Node, Any]) -> int:
    """Memory behind tensors; views of one tensor count once."""
    storages: dict[int, int] = {}
    for leaf in pytree.tree_leaves(list(values.values())):
        if isinstance(leaf, torch.Tensor):
            storages[leaf.untyped_storage().data_ptr()] = leaf.untyped_storage().nbytes()
    return sum(storages.values())
