"""One kernel under construction: what its first operator is, and what it takes in behind that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from torch import fx

from hwprune.errors import UnsupportedOperatorError
from hwprune.latency import operators as ops
from hwprune.latency.channels import Shuffle, StepOp, slice_at
from hwprune.latency.fallback import fallback_op
from hwprune.latency.folding import Affine, Weight, batch_norm_affine, fold
from hwprune.latency.kernel import KernelOp
from hwprune.latency.operands import constant_affine, constant_map
from hwprune.latency.rules import layer_norm, map_rule, weights_of
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

    # -- the first operator -------------------------------------------------------------------

    def open(self) -> None:
        """Push the operators of the node, or its fallback.

        Raises
        ------
        UnsupportedOperatorError
            Not even a fallback can hold it.
        """
        try:
            self._open()
        except UnsupportedOperatorError:
            self.inputs.clear()
            self.chain.clear()
            self._open_fallback()

    def _open(self) -> None:
        node, target = self.node, self.node.target
        piece = slice_at(node)
        if target in ops.WEIGHTED or target is ops.aten.conv_transpose2d.input:
            self._open_weighted()
        elif target in ops.UNARY:
            self.push(ops.UNARY[target](node), self.value(node.args[0]))  # type: ignore[arg-type]
        elif target in ops.BINARY or ops.is_batch_norm(node):
            self._open_arithmetic()
        elif target is ops.aten.cat.default:
            self.concat(node)
        elif target is ops.aten.layer_norm.default:
            op, weight, bias = layer_norm(node, self.views)
            self.push(op, self.value(node.args[0]), self.weight(weight), self.weight(bias))  # type: ignore[arg-type]
        elif piece is not None:
            self.fuser.natural(node)
            self.push(piece[1], self.value(piece[0]))
        elif ops.is_flatten(node):
            self.flatten(node)
        elif ops.is_as_map(node):
            self.push(KernelOp("as_map", ()), self.value(node.args[0]))  # type: ignore[arg-type]
        else:
            self.push(map_rule(node, self.views), self.value(node.args[0]))  # type: ignore[arg-type]

    def _open_weighted(self) -> None:
        node = self.node
        source = self.fuser.resolve(node.args[0])  # type: ignore[arg-type]
        before, op, weight, bias, axis = weights_of(node, self.views)
        pad = self.fuser.pads.get(source)
        if pad is not None:
            source, extra = pad
            padding: Any = op.attribute("padding")
            total = tuple(a + b for a, b in zip(padding, extra, strict=True))
            op = replace(op, attributes=ops.attributes(**{**dict(op.attributes), "padding": total}))
        value = self.value(source)
        behind: list[Affine] = []
        channels = node
        while (found := self._affine_behind()) is not None:
            behind.append(found[1])
            self._take(found[0])
        weight, bias = fold(weight, bias, behind, channels, axis)
        if before is not None:
            value = self.push(before, value)
        self.push(op, value, self.weight(weight), self.weight(bias))

    def _open_arithmetic(self) -> None:
        node = self.node
        if ops.is_batch_norm(node):
            self._push_affine(batch_norm_affine(node), self.value(node.args[0]))  # type: ignore[arg-type]
            return
        for mine in node.args[:2]:
            affine = constant_affine(node, mine, self.views) if isinstance(mine, fx.Node) else None
            if affine is not None:
                self._push_affine(affine, self.value(mine))  # type: ignore[arg-type]
                return
        self.push(KernelOp(ops.BINARY[node.target], ()), *[self._operand(x) for x in node.args[:2]])

    def _open_fallback(self) -> None:
        node = self.node
        self.extendable = False
        op, tensors = fallback_op(node)
        for tensor in (node, *tensors):
            self.fuser.natural(tensor)
        values: list[Value | None] = []
        for tensor in tensors:
            if tensor.op == "get_attr":
                values.append(self.weight(Weight(tensor, None, lambda read, t=tensor: read(t))))
            else:
                values.append(self.value(tensor))
        if self.chain:
            raise ops.unsupported(node, "reads a tensor that is computed inside another kernel")
        self.push(op, *values)

    # -- what follows -------------------------------------------------------------------------

    def extend(self) -> bool:
        """Take the users of the present value into the kernel, if the rules allow."""
        users = self.fuser.users(self.node) if self.extendable else []
        if len(users) == 2:
            return self._extend_diamond(users)
        if len(users) != 1:
            return False
        user = users[0]
        if not self._same_shape(user):
            return False
        if user.target in ops.UNARY:
            self.push(ops.UNARY[user.target](user), self.result())
        elif (affine := self._affine_at(user)) is not None:
            self._push_affine(affine, self.result())
        elif user.target not in ops.BINARY or not self._extend_binary(user):
            return False
        self._take(user)
        return True

    def _take(self, user: fx.Node) -> None:
        self.fuser.taken.add(user)
        self.node = user

    def _same_shape(self, user: fx.Node) -> bool:
        return user.op == "call_function" and (
            user.target in ops.UNARY or user.target in ops.BINARY or ops.is_batch_norm(user)
        ) and self.views.shape(user) == self.views.shape(self.node)  # fmt: skip

    def _affine_at(self, user: fx.Node) -> Affine | None:
        if ops.is_batch_norm(user):
            return batch_norm_affine(user)
        mine = [x for x in user.args[:2] if isinstance(x, fx.Node) and self.fuser.resolve(x) is self.node]
        if user.target not in ops.BINARY or len(mine) != 1:
            return None
        return constant_affine(user, mine[0], self.views)

    def _affine_behind(self) -> tuple[fx.Node, Affine] | None:
        users = self.fuser.users(self.node)
        if len(users) != 1 or not self._same_shape(users[0]):
            return None
        affine = self._affine_at(users[0])
        return None if affine is None else (users[0], affine)

    def _push_affine(self, affine: Affine, value: Value) -> None:
        if affine.numbers is not None:
            scale, shift = affine.numbers
            self.push(KernelOp("affine", (), ops.attributes(scale=scale, shift=shift)), value)
        else:
            self.push(KernelOp("scale_shift", ()), value, *[self.weight(w) for w in affine.weights()])

    def _extend_binary(self, user: fx.Node) -> bool:
        mine = [isinstance(x, fx.Node) and self.fuser.resolve(x) is self.node for x in user.args[:2]]
        result = self.result()
        try:
            if not all(
                own or (isinstance(x, fx.Node) and (x.op == "get_attr" or self._is_available(x)))
                for own, x in zip(mine, user.args[:2], strict=True)
            ):
                return False
            self._check_operands(user)
            values = [
                result if own else self._operand_of(user, x)
                for own, x in zip(mine, user.args[:2], strict=True)
            ]
        except UnsupportedOperatorError:
            return False
        self.push(KernelOp(ops.BINARY[user.target], ()), *values)
        return True

    def _is_available(self, node: fx.Node) -> bool:
        return self.fuser.resolve(node) in self.fuser.available

    def _extend_diamond(self, users: list[fx.Node]) -> bool:
        """``x * f(x)`` with an elementwise ``f``: swish forms that are written out."""
        for last, first in (users, users[::-1]):
            path = self._path(first, last)
            if path is None:
                continue
            start = self.result()
            for node in path:
                if node.target in ops.UNARY:
                    self.push(ops.UNARY[node.target](node), self.result())
                else:
                    affine = constant_affine(
                        node, next(n for n in node.all_input_nodes if n.op != "get_attr"), self.views
                    )
                    assert affine is not None
                    self._push_affine(affine, self.result())
                self.fuser.taken.add(node)
            own = self.fuser.resolve(last.args[0]) is self.node  # type: ignore[arg-type]
            pair = (start, self.result()) if own else (self.result(), start)
            self.push(KernelOp(ops.BINARY[last.target], ()), *pair)
            self._take(last)
            return True
        return False

    def _path(self, first: fx.Node, last: fx.Node) -> list[fx.Node] | None:
        """Single-user elementwise nodes from ``first`` up to the binary ``last``, or None."""
        if last.target not in ops.BINARY or ops.arguments(last).get("alpha", 1) != 1:
            return None
        if not all(isinstance(x, fx.Node) for x in last.args[:2]):
            return None
        path: list[fx.Node] = []
        node = first
        while node is not last:
            if not self._same_shape(node) or len(path) > 8:
                return None
            sources = [n for n in node.all_input_nodes if n.op != "get_attr"]
            if node.target not in ops.UNARY and (
                len(sources) != 1 or constant_affine(node, sources[0], self.views) is None
            ):
                return None
            users = self.fuser.users(node)
            if len(users) != 1:
                return None
            path.append(node)
            node = users[0]
        return path if path and self._same_shape(last) else None

    def _check_operands(self, node: fx.Node) -> None:
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

    def _operand(self, x: Any) -> Value | None:
        self._check_operands(self.node)
        return self._operand_of(self.node, x)

    def _operand_of(self, node: fx.Node, x: Any) -> Value | None:
        if x.op == "get_attr":
            return self.weight(constant_map(node, x, self.views))
        return self.value(x)
