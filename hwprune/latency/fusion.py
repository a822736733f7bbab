"""Fusion: a captured graph as a list of fused kernels, with the group widths left open.

The same list feeds the profiler (kernel families), the predictor (one term per step) and the
compiler (a :class:`~hwprune.latency.program.Program` with folded weights), so a kernel that is
timed is the kernel that ships. Rules: an anchor (convolution, linear, pooling, concat) takes the
BatchNorm behind it into its weights and the elementwise operators behind that into its loop nest,
as long as each result has one user, keeps the anchor's shape, and its other operand is already
there. Elementwise operators that find no anchor make a kernel of their own.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from hwprune.latency import operators as ops
from hwprune.latency.folding import Weight, batch_norm_affine, bias_of, fold_weight
from hwprune.latency.fused import FusedGraph, FusedStep
from hwprune.latency.kernel import KernelOp


def fuse(graph: fx.GraphModule) -> FusedGraph:
    """Partition a captured graph into kernels.

    Raises
    ------
    UnsupportedOperatorError
        Naming the layer and operator that no kernel can hold.
    """
    return _Fuser(graph).run()


class _Fuser:
    """One walk over the graph. ``real`` maps alias nodes to the node that holds their value."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.real: dict[fx.Node, fx.Node] = {}
        self.available: set[fx.Node] = set()
        self.taken: set[fx.Node] = set()
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
        steps = [
            step if step.plain_output == self.leaves(step.node) else self.plain(step) for step in self.steps
        ]
        return FusedGraph(self.graph, tuple(placeholders), tuple(steps), tuple(outputs))

    def resolve(self, node: fx.Node) -> fx.Node:
        while node in self.real:
            node = self.real[node]
        return node

    def visit(self, node: fx.Node) -> None:
        if ops.is_alias(node):
            self.real[node] = node.args[0]  # type: ignore[assignment]
        elif ops.is_flatten(node) and self.single_linear_user(node):
            return  # taken along by the linear layer
        else:
            self.start(node)

    def single_linear_user(self, node: fx.Node) -> bool:
        users = self.users(node)
        return len(users) == 1 and users[0].target is torch.ops.aten.linear.default

    def users(self, node: fx.Node) -> list[fx.Node]:
        """Users of a value, looking through aliases; the output node counts as one."""
        found: list[fx.Node] = []
        for user in node.users:
            found.extend(self.users(user) if user.op == "call_function" and ops.is_alias(user) else [user])
        return found

    def start(self, node: fx.Node) -> None:
        """Open a kernel at ``node`` and extend it as far as the rules allow."""
        kernel = _OpenKernel(self, node)
        kernel.open()
        while kernel.extend():
            pass
        current = kernel.node
        self.available.add(current)
        self.steps.append(
            FusedStep(self.unique(kernel.name), tuple(kernel.numbered), tuple(kernel.inputs), current, False)
        )

    def unique(self, name: str) -> str:
        count = self.names.get(name, 0)
        self.names[name] = count + 1
        return name if count == 0 else f"{name}#{count}"

    def leaves(self, node: fx.Node) -> bool:
        """Whether a feature map leaves the network."""
        return len(ops.shape(node)) == 4 and any(user.op == "output" for user in self.users(node))

    def plain(self, step: FusedStep) -> FusedStep:
        return FusedStep(step.name, step.ops, step.inputs, step.node, True)


class _OpenKernel:
    """A kernel under construction; value numbers are assigned when it is closed."""

    def __init__(self, fuser: _Fuser, node: fx.Node) -> None:
        self.fuser = fuser
        self.node = node
        self.name = ops.where(node)
        self.inputs: list[fx.Node | Weight] = []
        self.chain: list[tuple[KernelOp, tuple[object, ...]]] = []
        self.folded = False

    @property
    def numbered(self) -> list[KernelOp]:
        """Operators with final value numbers (inputs first, then results in order)."""
        count = len(self.inputs)

        def number(arg: object) -> int:
            if arg is None:
                return -1
            kind, index = arg  # type: ignore[misc]
            return int(index) if kind == "in" else count + int(index)

        return [KernelOp(op.kind, tuple(number(a) for a in args), op.attributes) for op, args in self.chain]

    def add_input(self, item: fx.Node | Weight) -> tuple[str, int]:
        if isinstance(item, fx.Node):
            item = self.fuser.resolve(item)
            if item in self.inputs:
                return ("in", self.inputs.index(item))
        self.inputs.append(item)
        return ("in", len(self.inputs) - 1)

    def push(self, op: KernelOp, *args: object) -> tuple[str, int]:
        self.chain.append((op, args))
        return ("op", len(self.chain) - 1)

    def result(self) -> tuple[str, int]:
        return ("op", len(self.chain) - 1)

    # -- the first operator -------------------------------------------------------------------

    def open(self) -> None:
        node, target = self.node, self.node.target
        if target in ops.WEIGHTED:
            self._open_weighted()
        elif target in ops.UNWEIGHTED:
            operands = node.args[0] if isinstance(node.args[0], (list, tuple)) else [node.args[0]]
            self.push(ops.UNWEIGHTED[target](node), *[self.add_input(x) for x in operands])  # type: ignore[arg-type]
        elif target in ops.UNARY:
            self.push(ops.UNARY[target](node), self.add_input(node.args[0]))  # type: ignore[arg-type]
        elif target in ops.BINARY:
            self._check_binary(node)
            self.push(KernelOp(ops.BINARY[target], ()), *[self.add_input(x) for x in node.args[:2]])  # type: ignore[arg-type]
        elif ops.is_batch_norm(node):
            x = self.add_input(node.args[0])  # type: ignore[arg-type]
            self.push(KernelOp("scale_shift", ()), x, *[self.add_input(w) for w in batch_norm_affine(node)])
        elif ops.is_flatten(node):
            self.push(KernelOp("flatten", ()), self.add_input(node.args[0]))  # type: ignore[arg-type]
        elif target is operator.getitem:
            raise ops.unsupported(node, "of an operator with several results has no kernel")
        else:
            raise ops.unsupported(node, "has no kernel yet")

    def _open_weighted(self) -> None:
        node = self.node
        source: fx.Node = node.args[0]  # type: ignore[assignment]
        while ops.is_alias(source):
            source = source.args[0]  # type: ignore[assignment]
        flatten = ops.is_flatten(source) and self.fuser.single_linear_user(source)
        value: object = self.add_input(source.args[0] if flatten else source)  # type: ignore[arg-type]
        norm = self._batch_norm_behind(node)
        weight = fold_weight(node, norm)
        bias = bias_of(node, norm)
        w = self.add_input(weight)
        b = self.add_input(bias) if bias is not None else None
        if flatten:
            value = self.push(KernelOp("flatten", ()), value)
        self.push(ops.WEIGHTED[node.target](node), value, w, b)
        if norm is not None:
            self.fuser.taken.add(norm)
            self.node = norm

    def _batch_norm_behind(self, node: fx.Node) -> fx.Node | None:
        users = self.fuser.users(node)
        if len(users) == 1 and ops.is_batch_norm(users[0]) and not bool(users[0].args[5]):
            return users[0]
        return None

    # -- what follows -------------------------------------------------------------------------

    def extend(self) -> bool:
        """Take the single user of the present value into the kernel, if the rules allow."""
        users = self.fuser.users(self.node)
        if len(users) != 1:
            return False
        user = users[0]
        if user.op != "call_function" or ops.shape(user) != ops.shape(self.node):
            return False
        if user.target in ops.UNARY:
            self.push(ops.UNARY[user.target](user), self.result())
        elif ops.is_batch_norm(user) and not bool(user.args[5]):
            self.push(
                KernelOp("scale_shift", ()),
                self.result(),
                *[self.add_input(w) for w in batch_norm_affine(user)],
            )
        elif user.target in ops.BINARY:
            if not self._extend_binary(user):
                return False
        else:
            return False
        self.fuser.taken.add(user)
        self.node = user
        return True

    def _extend_binary(self, user: fx.Node) -> bool:
        self._check_binary(user)
        mine = [self.fuser.resolve(x) is self.node for x in user.args[:2]]  # type: ignore[arg-type]
        if all(mine):
            return False  # x + x: both operands are this value, which then has one user twice
        other: fx.Node = user.args[0 if mine[1] else 1]  # type: ignore[assignment]
        if self.fuser.resolve(other) not in self.fuser.available:
            return False
        other_value = self.add_input(other)
        args = (self.result(), other_value) if mine[0] else (other_value, self.result())
        self.push(KernelOp(ops.BINARY[user.target], ()), *args)
        return True

    def _check_binary(self, node: fx.Node) -> None:
        a = ops.arguments(node)
        if not all(isinstance(x, fx.Node) for x in node.args[:2]) or a.get("alpha", 1) != 1:
            raise ops.unsupported(node, "with a number as operand has no kernel yet")
        if any(x.op == "get_attr" for x in node.args[:2]):  # type: ignore[union-attr]
            raise ops.unsupported(node, "with a parameter as operand has no kernel yet")
        out = ops.shape(node)
        for x in node.args[:2]:
            s = ops.shape(x)  # type: ignore[arg-type]
            if s != out and not (len(s) == 4 and len(out) == 4 and s[:2] == out[:2] and s[2:] == (1, 1)):
                raise ops.unsupported(node, f"cannot broadcast {s} to {out} inside a kernel")
