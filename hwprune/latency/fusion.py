"""Fusion: a captured graph as a list of fused kernels, with the group widths left open.

The same list feeds the profiler (kernel families), the predictor (one term per step) and the
compiler (a :class:`~hwprune.latency.program.Program` with folded weights), so a kernel that is
timed is the kernel that ships. Rules: an anchor (convolution, linear, pooling, concat) takes what
maps its channels affinely (BatchNorm, layer scale, numbers) into its weights and the elementwise
operators behind that into its loop nest, as long as each result has one user, keeps the anchor's
shape, and its other operand is already there. Elementwise operators that find no anchor make a
kernel of their own; an operator without a rule makes a ``fallback`` kernel.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import fx

from hwprune.latency import anchors
from hwprune.latency import operators as ops
from hwprune.latency.channels import SPLITS, Shuffle, shuffle_at, slice_at
from hwprune.latency.constants import fold_constants
from hwprune.latency.following import extend
from hwprune.latency.fused import FusedGraph, FusedStep
from hwprune.latency.open_kernel import OpenKernel
from hwprune.latency.opening import begin
from hwprune.latency.tokens import tokens_as_maps
from hwprune.latency.views import Views


class NeedsOrder(Exception):
    """A tensor must lie in the order that the graph says: its permutation is to be computed."""

    def __init__(self, permutes: frozenset[fx.Node]) -> None:
        super().__init__()
        self.permutes = permutes


def fuse(graph: fx.GraphModule) -> FusedGraph:
    """Partition a captured graph into kernels.

    Raises
    ------
    UnsupportedOperatorError
        Naming the layer and operator that no kernel can hold.
    """
    graph = tokens_as_maps(fold_constants(graph))
    blocked: frozenset[fx.Node] = frozenset()
    while True:
        try:
            return Fuser(graph, Views(graph, blocked)).run()
        except NeedsOrder as needed:
            blocked |= needed.permutes


class Fuser:
    """One walk over the graph.

    ``deferred`` maps nodes that are computed inside the kernels of their users to the function
    that puts them there; ``pads`` maps paddings that convolutions do to their source and amounts.
    """

    def __init__(self, graph: fx.GraphModule, views: Views) -> None:
        self.graph = graph
        self.views = views
        self.available: set[fx.Node] = set()
        self.taken: set[fx.Node] = set()
        self.deferred: dict[fx.Node, Callable[[OpenKernel], object]] = {}
        self.pads: dict[fx.Node, tuple[fx.Node, tuple[int, int, int, int]]] = {}
        self.steps: list[FusedStep] = []
        self.names: dict[str, int] = {}

    def run(self) -> FusedGraph:
        placeholders: list[fx.Node] = []
        outputs: list[fx.Node] = []
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                placeholders.append(node)
                self.available.add(node)
            elif node.op == "output":
                outputs = [self.resolve(n) for n in node.all_input_nodes]
            elif node.op == "call_function" and node not in self.taken:
                self.visit(node)
        steps = tuple(replace(s, plain_output=self.leaves(s.node) or s.is_plain) for s in self.steps)
        return FusedGraph(self.graph, tuple(placeholders), steps, tuple(outputs), self.views)

    def resolve(self, node: fx.Node) -> fx.Node:
        """The node that holds the value of an alias."""
        while node.op == "call_function" and self.views.is_alias(node):
            node = node.args[0]  # type: ignore[assignment]
        return node

    def visit(self, node: fx.Node) -> None:
        shuffle = shuffle_at(node)
        if self.views.is_alias(node):
            return
        if isinstance(node.meta.get("val"), (list, tuple)):
            return  # each user takes its part of an operator with several results
        if ops.is_flatten(node) and self.all_users(node, self.is_linear):
            self.deferred[node] = lambda kernel: kernel.flatten(node)
        elif node.target in ops.PADS and self.joins_convolutions(node):
            padding = anchors.padding_of(node)
            assert padding is not None
            self.pads[node] = (self.resolve(node.args[0]), padding[0])  # type: ignore[arg-type]
        elif shuffle is not None:
            self.taken.update(shuffle.inside, (shuffle.result,))
            self.shuffle(shuffle)
        elif node.target is ops.aten.cat.default and self.feeds_shuffle(node):
            self.deferred[node] = lambda kernel: kernel.concat(node)
        else:
            self.start(node)

    def shuffle(self, shuffle: Shuffle) -> None:
        """Where only slices are taken of it, a shuffle is done inside of them."""
        if self.all_users(shuffle.result, self.is_slice):
            self.deferred[shuffle.result] = lambda kernel: kernel.shuffle(shuffle)
        else:
            self.start(shuffle.result, lambda kernel: kernel.shuffle(shuffle))

    def all_users(self, node: fx.Node, test: Callable[[fx.Node], bool]) -> bool:
        users = self.users(node)
        return bool(users) and all(test(user) for user in users)

    @staticmethod
    def is_linear(node: fx.Node) -> bool:
        return node.target is torch.ops.aten.linear.default

    @staticmethod
    def is_slice(node: fx.Node) -> bool:
        if node.target in SPLITS:
            return all(u.target is operator.getitem and slice_at(u) is not None for u in node.users)
        return slice_at(node) is not None

    def joins_convolutions(self, node: fx.Node) -> bool:
        """Whether a padding with zeros can be done by the convolutions behind it."""
        found = anchors.padding_of(node)
        maps = found is not None and found[1] == 0.0 and len(ops.shape(node)) == 4
        return maps and self.all_users(
            node, lambda user: user.target in anchors.CONVOLUTIONS and user.args[0] is node
        )

    def feeds_shuffle(self, node: fx.Node) -> bool:
        users = self.users(node)
        return len(users) == 1 and shuffle_at(users[0]) is not None and len(self.views.shape(node)) == 4

    def users(self, node: fx.Node) -> list[fx.Node]:
        """Users of a value, looking through aliases; the output node counts as one."""
        found: list[fx.Node] = []
        for user in node.users:
            aliased = user.op == "call_function" and self.views.is_alias(user)
            found.extend(self.users(user) if aliased else [user])
        return found

    def start(self, node: fx.Node, first: Callable[[OpenKernel], object] | None = None) -> None:
        """Open a kernel at ``node`` and extend it as far as the rules allow."""
        kernel = OpenKernel(self, node)
        if first is None:
            begin(kernel)
        else:
            first(kernel)
        while extend(kernel):
            pass
        current = kernel.node
        self.available.add(current)
        self.steps.append(
            FusedStep(self.unique(kernel.name), tuple(kernel.numbered), tuple(kernel.inputs), current, False)
        )

    def natural(self, node: fx.Node) -> None:
        """Make sure that a tensor lies as the graph says.

        Raises
        ------
        NeedsOrder
            It does not; fusion starts again with its permutation computed.
        """
        if node in self.views.last:
            raise NeedsOrder(self.views.last[node])

    def unique(self, name: str) -> str:
        count = self.names.get(name, 0)
        self.names[name] = count + 1
        return name if count == 0 else f"{name}#{count}"

    def leaves(self, node: fx.Node) -> bool:
        """Whether a feature map leaves the network."""
        return len(ops.shape(node)) == 4 and any(user.op == "output" for user in self.users(node))
