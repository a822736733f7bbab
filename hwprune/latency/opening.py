"""How a kernel begins: the operators of its first node, or a fallback for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx

from hwprune.errors import UnsupportedOperatorError
from hwprune.latency import anchors
from hwprune.latency import operators as ops
from hwprune.latency.channels import slice_at
from hwprune.latency.fallback import fallback_op
from hwprune.latency.folding import Affine, Weight, batch_norm_affine, fold
from hwprune.latency.kernel import KernelOp
from hwprune.latency.open_kernel import OpenKernel, Value
from hwprune.latency.operands import constant_affine
from hwprune.latency.rules import layer_norm, map_rule, weights_of


def begin(kernel: OpenKernel) -> None:
    """Push the operators of the node, or its fallback.

    Raises
    ------
    UnsupportedOperatorError
        Not even a fallback can hold it.
    """
    try:
        _first(kernel)
    except UnsupportedOperatorError:
        kernel.inputs.clear()
        kernel.chain.clear()
        _fallback(kernel)


def _first(kernel: OpenKernel) -> None:
    node, target = kernel.node, kernel.node.target
    piece = slice_at(node)
    if target in anchors.WEIGHTED or target is ops.aten.conv_transpose2d.input:
        _weighted(kernel)
    elif target in ops.UNARY:
        kernel.push(ops.UNARY[target](node), kernel.value(node.args[0]))  # type: ignore[arg-type]
    elif target in ops.BINARY or ops.is_batch_norm(node):
        _arithmetic(kernel)
    elif target is ops.aten.cat.default:
        kernel.concat(node)
    elif target is ops.aten.layer_norm.default:
        op, weight, bias = layer_norm(node, kernel.views)
        kernel.push(op, kernel.value(node.args[0]), kernel.weight(weight), kernel.weight(bias))  # type: ignore[arg-type]
    elif piece is not None:
        kernel.fuser.natural(node)
        kernel.push(piece[1], kernel.value(piece[0]))
    elif ops.is_flatten(node):
        kernel.flatten(node)
    elif ops.is_as_map(node):
        kernel.push(KernelOp("as_map", ()), kernel.value(node.args[0]))  # type: ignore[arg-type]
    else:
        kernel.push(map_rule(node, kernel.views), kernel.value(node.args[0]))  # type: ignore[arg-type]


def _weighted(kernel: OpenKernel) -> None:
    node = kernel.node
    source = kernel.fuser.resolve(node.args[0])  # type: ignore[arg-type]
    before, op, weight, bias, axis = weights_of(node, kernel.views)
    pad = kernel.fuser.pads.get(source)
    if pad is not None:
        source, extra = pad
        padding: Any = op.attribute("padding")
        total = tuple(a + b for a, b in zip(padding, extra, strict=True))
        op = replace(op, attributes=ops.attributes(**{**dict(op.attributes), "padding": total}))
    value = kernel.value(source)
    behind: list[Affine] = []
    channels = node
    while (found := _affine_behind(kernel)) is not None:
        behind.append(found[1])
        kernel.take(found[0])
    weight, bias = fold(weight, bias, behind, channels, axis)
    if before is not None:
        value = kernel.push(before, value)
    kernel.push(op, value, kernel.weight(weight), kernel.weight(bias))


def _arithmetic(kernel: OpenKernel) -> None:
    node = kernel.node
    if ops.is_batch_norm(node):
        kernel.push_affine(batch_norm_affine(node), kernel.value(node.args[0]))  # type: ignore[arg-type]
        return
    for mine in node.args[:2]:
        affine = constant_affine(node, mine, kernel.views) if isinstance(mine, fx.Node) else None
        if affine is not None:
            kernel.push_affine(affine, kernel.value(mine))  # type: ignore[arg-type]
            return
    kernel.push(KernelOp(ops.BINARY[node.target], ()), *[kernel.operand(x) for x in node.args[:2]])


def _fallback(kernel: OpenKernel) -> None:
    node = kernel.node
    kernel.extendable = False
    op, tensors = fallback_op(node)
    for tensor in (node, *tensors):
        kernel.fuser.natural(tensor)
    values: list[Value | None] = []
    for tensor in tensors:
        if tensor.op == "get_attr":
            values.append(kernel.weight(Weight(tensor, None, lambda read, t=tensor: read(t))))
        else:
            values.append(kernel.value(tensor))
    if kernel.chain:
        raise ops.unsupported(node, "reads a tensor that is computed inside another kernel")
    kernel.push(op, *values)


def _affine_behind(kernel: OpenKernel) -> tuple[fx.Node, Affine] | None:
    users = kernel.fuser.users(kernel.node)
    if len(users) != 1 or not kernel.same_shape(users[0]):
        return None
    affine = kernel.affine_at(users[0])
    return None if affine is None else (users[0], affine)
