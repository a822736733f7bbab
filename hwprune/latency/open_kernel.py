"""One kernel under construction: its operators and inputs so far, and what may be pushed into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from torch import fx

from hwprune.latency import operators as ops
from hwprune.latency.channels import Shuffle, StepOp
from hwprune.latency.folding import Affine, Weight, batch_norm_affine
from hwprune.latency.kernel import KernelOp
from hwprune.latency.operands import constant_affine, constant_map
from hwprune.latency.views import Views

#: ("in", i) is input i, ("op", i) the result of operator i.
Value = tuple[str, int]


class Network(Protocol):
    """What a kernel must know of the network around it (see :mod:`hwprune.latency.fusion`)."""

    views: Views
    available: set[fx.Node]
    taken: set[fx.Node]
    deferred: dict[fx.Node, Callable[[OpenKernel], object]]
    pads: dict[fx.Node, tuple[fx.Node, tuple[int, int, int, int]]]

    def resolve(self, node: fx.Node) -> fx.Node: ...
    def users(self, node: fx.Node) -> list[fx.Node]: ...
    def natural(self, node: fx.Node) -> None: ...


class OpenKernel:
    """Operators and inputs collected so far; value numbers are assigned when it is closed."""

    def __init__(self, fuser: Network, node: fx.Node) -> None:
        self.fuser = fuser
        self.views = fuser.views
        self.node = node
        self.name = ops.where(node)
        self.inputs: list[fx.Node | Weight] = []
        self.chain: list[tuple[KernelOp | StepOp, tuple[Value | None, ...]]] = []
        self.extendable = True

    @property
    def numbered(self) -> list[KernelOp | StepOp]:
        """Operators with final value numbers (inputs first, then results in order)."""
        count = len(self.inputs)

        def number(value: Value | None) -> int:
            if value is None:
                return -1
            return value[1] if value[0] == "in" else count + value[1]

        return [replace(op, args=tuple(number(a) for a in args)) for op, args in self.chain]

    # -- values -------------------------------------------------------------------------------

    def value(self, node: fx.Node) -> Value:
        """A tensor of the graph: an input, or computed here if it was left to its users."""
        node = self.fuser.resolve(node)
        if node in self.fuser.deferred:
            self.fuser.deferred[node](self)
            return self.result()
        if node in self.inputs:
            return ("in", self.inputs.index(node))
        self.inputs.append(node)
        return ("in", len(self.inputs) - 1)

    def weight(self, weight: Weight | None) -> Value | None:
        if weight is None:
            return None
        self.inputs.append(weight)
        return ("in", len(self.inputs) - 1)

    def push(self, op: KernelOp | StepOp, *args: Value | None) -> Value:
        self.chain.append((op, args))
        return self.result()

    def result(self) -> Value:
        return ("op", len(self.chain) - 1)

    # -- operators that may be deferred -------------------------------------------------------

    def flatten(self, node: fx.Node) -> None:
        self.push(KernelOp("flatten", ()), self.value(node.args[0]))  # type: ignore[arg-type]

    def concat(self, node: fx.Node) -> None:
        parts: Any = node.args[0]
        along = self.views.axis(node, int(ops.arguments(node)["dim"]))
        if along != 1 or len(ops.shape(node)) not in (2, 4):
            raise ops.unsupported(node, "has a kernel along channels only")
        self.push(KernelOp("cat", ()), *[self.value(part) for part in parts])

    def shuffle(self, shuffle: Shuffle) -> None:
        self.push(shuffle.op, self.value(shuffle.source))

    # -- what the first operator and those behind it share --------------------------------------

    def take(self, user: fx.Node) -> None:
        self.fuser.taken.add(user)
        self.node = user

    def same_shape(self, user: fx.Node) -> bool:
        return user.op == "call_function" and (
            user.target in ops.UNARY or user.target in ops.BINARY or ops.is_batch_norm(user)
        ) and self.views.shape(user) == self.views.shape(self.node)  # fmt: skip

    def affine_at(self, user: fx.Node) -> Affine | None:
        if ops.is_batch_norm(user):
            return batch_norm_affine(user)
        mine = [x for x in user.args[:2] if isinstance(x, fx.Node) and self.fuser.resolve(x) is self.node]
        if user.target not in ops.BINARY or len(mine) != 1:
            return None
        return constant_affine(user, mine[0], self.views)

    def push_affine(self, affine: Affine, value: Value) -> None:
        if affine.numbers is not None:
            scale, shift = affine.numbers
            self.push(KernelOp("affine", (), ops.attributes(scale=scale, shift=shift)), value)
        else:
            self.push(KernelOp("scale_shift", ()), value, *[self.weight(w) for w in affine.weights()])

    def operand(self, x: Any) -> Value | None:
        self.check_operands(self.node)
        return self.operand_of(self.node, x)

    def operand_of(self, node: fx.Node, x: Any) -> Value | None:
        if x.op == "get_attr":
            return self.weight(constant_map(node, x, self.views))
        return self.value(x)

    def check_operands(self, node: fx.Node) -> None:
        if ops.arguments(node).get("alpha", 1) != 1:
            raise ops.unsupported(node, "with alpha has no kernel")
        out = self.views.shape(node)
        for x in node.args[:2]:
            if not isinstance(x, fx.Node):
                raise ops.unsupported(node, "with a number as first operand has no kernel")
            if x.op == "get_attr":
                continue
            s = self.views.shape(x)
            if s != out and not (len(s) == 4 and len(out) == 4 and s[:2] == out[:2] and s[2:] == (1, 1)):
                raise ops.unsupported(node, f"cannot broadcast {s} to {out} inside a kernel")
