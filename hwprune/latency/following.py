"""What follows the first operator of a kernel into it."""

from __future__ import annotations

from torch import fx

from hwprune.errors import UnsupportedOperatorError
from hwprune.latency import operators as ops
from hwprune.latency.kernel import KernelOp
from hwprune.latency.open_kernel import OpenKernel
from hwprune.latency.operands import constant_affine


def extend(kernel: OpenKernel) -> bool:
    """Take the users of the present value into the kernel, if the rules allow."""
    users = kernel.fuser.users(kernel.node) if kernel.extendable else []
    if len(users) == 2:
        return _diamond(kernel, users)
    if len(users) != 1:
        return False
    user = users[0]
    if not kernel.same_shape(user):
        return False
    if user.target in ops.UNARY:
        kernel.push(ops.UNARY[user.target](user), kernel.result())
    elif (affine := kernel.affine_at(user)) is not None:
        kernel.push_affine(affine, kernel.result())
    elif user.target not in ops.BINARY or not _binary(kernel, user):
        return False
    kernel.take(user)
    return True


def _binary(kernel: OpenKernel, user: fx.Node) -> bool:
    mine = [isinstance(x, fx.Node) and kernel.fuser.resolve(x) is kernel.node for x in user.args[:2]]
    result = kernel.result()
    try:
        if not all(
            own or (isinstance(x, fx.Node) and (x.op == "get_attr" or _is_available(kernel, x)))
            for own, x in zip(mine, user.args[:2], strict=True)
        ):
            return False
        kernel.check_operands(user)
        values = [
            result if own else kernel.operand_of(user, x) for own, x in zip(mine, user.args[:2], strict=True)
        ]
    except UnsupportedOperatorError:
        return False
    kernel.push(KernelOp(ops.BINARY[user.target], ()), *values)
    return True


def _is_available(kernel: OpenKernel, node: fx.Node) -> bool:
    return kernel.fuser.resolve(node) in kernel.fuser.available


def _diamond(kernel: OpenKernel, users: list[fx.Node]) -> bool:
    """``x * f(x)`` with an elementwise ``f``: swish forms that are written out."""
    for last, first in (users, users[::-1]):
        path = _path(kernel, first, last)
        if path is None:
            continue
        start = kernel.result()
        for node in path:
            if node.target in ops.UNARY:
                kernel.push(ops.UNARY[node.target](node), kernel.result())
            else:
                affine = constant_affine(
                    node, next(n for n in node.all_input_nodes if n.op != "get_attr"), kernel.views
                )
                assert affine is not None
                kernel.push_affine(affine, kernel.result())
            kernel.fuser.taken.add(node)
        own = kernel.fuser.resolve(last.args[0]) is kernel.node  # type: ignore[arg-type]
        pair = (start, kernel.result()) if own else (kernel.result(), start)
        kernel.push(KernelOp(ops.BINARY[last.target], ()), *pair)
        kernel.take(last)
        return True
    return False


def _path(kernel: OpenKernel, first: fx.Node, last: fx.Node) -> list[fx.Node] | None:
    """Single-user elementwise nodes from ``first`` up to the binary ``last``, or None."""
    if last.target not in ops.BINARY or ops.arguments(last).get("alpha", 1) != 1:
        return None
    if not all(isinstance(x, fx.Node) for x in last.args[:2]):
        return None
    path: list[fx.Node] = []
    node = first
    while node is not last:
        if not kernel.same_shape(node) or len(path) > 8:
            return None
        sources = [n for n in node.all_input_nodes if n.op != "get_attr"]
        if node.target not in ops.UNARY and (
            len(sources) != 1 or constant_affine(node, sources[0], kernel.views) is None
        ):
            return None
        users = kernel.fuser.users(node)
        if len(users) != 1:
            return None
        path.append(node)
        node = users[0]
    return path if path and kernel.same_shape(last) else None
