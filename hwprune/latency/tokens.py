"""Linear layers on tensors of any rank, computed as convolutions over a map of positions.

Kernels know feature maps, [N,C,H,W] packed by channel blocks, and rows, [N,C]. A region of a
transformer (:mod:`hwprune.latency.regions`) is neither: [batch, tokens, C], or windows. Inside of it,
only the number of positions matters, so all of it is rewritten to channels-last maps [N,H,W,C], of which
fusion makes packed kernels. What is written for feature maps already (``permute`` to channels last,
layers, ``permute`` back) stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from hwprune.latency import operators as ops
from hwprune.latency.regions import Region, find_regions, is_move, tensors
from hwprune.latency.reshapes import join_reshapes
from hwprune.latency.sizes import Origin, own_origins, set_origins
from hwprune.latency.views import TO_FIRST, TO_LAST, permutation

aten = ops.aten
#: Tensors as feature maps, by tensor and the map's batch, rows and columns: one copy for all regions.
Entered = dict[tuple[fx.Node, tuple[int, int, int]], fx.Node]


def tokens_as_maps(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with channels-last maps in the place of tokens.

    Where a tensor enters such a region it is turned into an ordinary feature map, and where it leaves, back
    into the shape it had; those are the only computed steps that are new. Nodes keep their names.

    Parameters
    ----------
    graph
        A captured graph without computed constants; it is not changed.

    Returns
    -------
    torch.fx.GraphModule
        ``graph`` itself where there is nothing to do.
    """
    regions = [region for region in find_regions(graph.graph) if not _is_map(region)]
    if not regions:
        return graph
    new = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        copies[node] = new.node_copy(node, lambda n: copies[n])
        copies[node].meta = dict(node.meta)
    entered: Entered = {}
    for region in regions:
        own = Region(tuple(copies[n] for n in region.nodes), copies[region.like], region.axes)
        _Rewriting(new, own, entered).run()
    join_reshapes(new)
    new.set_codegen(graph.graph._codegen)  # pyright: ignore[reportPrivateUsage] - keeps input and output trees
    return fx.GraphModule(graph, new, type(graph).__name__)


def _is_map(region: Region) -> bool:
    """Whether a region is a part of a network of feature maps, as written."""
    inside = set(region.nodes)
    for node in region.nodes:
        if ops.shape(node)[:-1] != region.lead:
            return False
        if any(n not in inside and permutation(n) != TO_LAST for n in tensors(node)):
            return False
        if any(u not in inside and permutation(u) != TO_FIRST for u in node.users):
            return False
    return True


def _behind(node: fx.Node) -> fx.Node:
    """The first node in front of which what reads ``node`` may be inserted."""
    behind = node.next
    while behind.op == "placeholder":
        behind = behind.next
    return behind


class _Rewriting:
    """One region of a graph that is being rewritten."""

    def __init__(self, graph: fx.Graph, region: Region, entered: Entered) -> None:
        self.graph = graph
        self.entered = entered
        self.region = region
        self.inside = set(region.nodes)
        self.moves = {node for node in region.nodes if is_move(node)}
        self.shapes = {node: ops.shape(node) for node in region.nodes}
        self.lead_sizes = region.lead
        self.lead: tuple[Origin, ...] = tuple(
            None if axis is None else own_origins(region.like)[axis] for axis in region.axes
        )
        #: What holds the value of a node of the region, or of a tensor that enters it, as a map.
        self.maps: dict[fx.Node, fx.Node] = {}
        #: The value of a map as the graph had it, by map and shape.
        self.natural: dict[tuple[fx.Node, tuple[int, ...]], fx.Node] = {}

    def run(self) -> None:
        for node in self.region.nodes:
            for source in tensors(node):
                if source not in self.maps:
                    self.maps[source] = self._enter(source, node)
            if node in self.moves:
                self.maps[node] = self.maps[tensors(node)[0]]
            else:
                self._become_map(node)
        for node in self.region.nodes:
            if self.maps[node] in self.inside:  # others only move a tensor that enters
                self._leave(node)
        for node in reversed(self.region.nodes):
            if not node.users:
                self.graph.erase_node(node)

    def _become_map(self, node: fx.Node) -> None:
        channels = own_origins(node)[-1]
        for source in tensors(node):
            node.replace_input_with(source, self.maps[source])
        node.meta["val"] = node.meta["val"].new_empty((*self.lead_sizes, self.shapes[node][-1]))
        set_origins(node, (*self.lead, channels))
        self.maps[node] = node

    def _enter(self, source: fx.Node, reader: fx.Node) -> fx.Node:
        """A tensor as a channels-last map."""
        channels = own_origins(source)[-1]
        last, first = (*self.lead, channels), (*self.lead[:1], channels, *self.lead[1:])
        is_map = ops.shape(source)[:-1] == self.lead_sizes
        if is_map and permutation(source) == TO_LAST and all(u in self.inside for u in source.users):
            return source
        key = (source, self.lead_sizes)
        if is_map and permutation(source) == TO_LAST:
            self.entered[key] = source.args[0]  # type: ignore[assignment]
        if key not in self.entered:
            with self.graph.inserting_before(_behind(source)):
                given = source if is_map else self._reshape(source, self.lead_sizes, last, reader)
                self.entered[key] = self._permute(given, TO_FIRST, first, f"{source.name}_to_map", reader)
        with self.graph.inserting_before(reader):
            return self._permute(self.entered[key], TO_LAST, last, f"{source.name}_map", reader)

    def _leave(self, node: fx.Node) -> None:
        """Let readers outside of the region have the value of a node in the shape that it had."""
        held = self.maps[node]
        for user in list(node.users):
            if user in self.inside:
                continue
            if permutation(user) == TO_FIRST and self.shapes[node][:-1] == self.lead_sizes:
                user.replace_input_with(node, held)
            else:
                user.replace_input_with(node, self._natural(held, node))

    def _natural(self, held: fx.Node, node: fx.Node) -> fx.Node:
        shape, channels = self.shapes[node], own_origins(held)[-1]
        last, first = (*self.lead, channels), (*self.lead[:1], channels, *self.lead[1:])
        whole = (held, (*self.lead_sizes, shape[-1]))
        if whole not in self.natural:
            with self.graph.inserting_after(held):
                planes = self._permute(held, TO_FIRST, first, f"{held.name}_planes", held)
            with self.graph.inserting_after(planes):
                self.natural[whole] = self._permute(planes, TO_LAST, last, f"{held.name}_from_map", held)
        if (held, shape) not in self.natural:
            with self.graph.inserting_after(self.natural[whole]):
                origins = [(node.name, axis) for axis in range(len(shape))]
                self.natural[held, shape] = self._reshape(self.natural[whole], shape[:-1], origins, held)
        return self.natural[held, shape]

    def _permute(
        self, node: fx.Node, order: tuple[int, ...], origins: Sequence[Origin], name: str, near: fx.Node
    ) -> fx.Node:
        shape = [ops.shape(node)[d] for d in order]
        return self._create(aten.permute.default, node, order, shape, origins, name, near)

    def _reshape(
        self, node: fx.Node, lead: Sequence[int], origins: Sequence[Origin], near: fx.Node
    ) -> fx.Node:
        shape = [*lead, ops.shape(node)[-1]]
        return self._create(aten.reshape.default, node, shape, shape, origins, f"{node.name}_shaped", near)

    def _create(
        self,
        target: Any,
        node: fx.Node,
        argument: Sequence[int],
        shape: Sequence[int],
        origins: Sequence[Origin],
        name: str,
        near: fx.Node,
    ) -> fx.Node:
        created = self.graph.create_node("call_function", target, (node, list(argument)), name=name)
        created.meta = {k: v for k, v in near.meta.items() if k == "nn_module_stack"}
        created.meta["val"] = node.meta["val"].new_empty(tuple(shape))
        set_origins(created, origins)
        return created
