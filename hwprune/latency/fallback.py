"""Operators without a kernel of our own: one ATen call, described well enough to build it alone."""

from __future__ import annotations

import json
import operator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from hwprune.latency import operators as ops
from hwprune.latency.channels import OpenSize, StepOp

#: Operators whose size argument is the shape of their result.
_SHAPED = frozenset((ops.aten.view.default, ops.aten.reshape.default, ops.aten.expand.default))


def fallback_op(node: fx.Node) -> tuple[StepOp, list[fx.Node]]:
    """A ``fallback`` operator and the tensors it reads.

    Attributes: ``target`` (``aten.cumsum.default``), ``arguments`` (JSON of positional and named
    arguments with ``{"tensor": i}`` for tensors and ``{"shape": 0}`` for the result's shape),
    ``item`` (which of several results, else -1) and ``shape``.

    Raises
    ------
    UnsupportedOperatorError
        It is no ATen operator on float32 tensors, or an argument is not plain data.
    """
    item, call = -1, node
    source = node.args[0] if node.args else None
    if node.target is operator.getitem and isinstance(source, fx.Node):
        call, item = source, int(str(node.args[1]))
    if not isinstance(call.target, OpOverload) or not str(call.target).startswith("aten."):
        raise ops.unsupported(node, "has no kernel")
    tensors: list[fx.Node] = []

    def plain(value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value.meta["val"].dtype != torch.float32:
                raise ops.unsupported(node, f"on {value.meta['val'].dtype} has no kernel")
            if value not in tensors:
                tensors.append(value)
            return {"tensor": tensors.index(value)}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise ops.unsupported(node, f"with an argument of type {type(value).__name__} has no kernel")

    if node.meta["val"].dtype != torch.float32:
        raise ops.unsupported(node, f"giving {node.meta['val'].dtype} has no kernel")
    positional = [plain(value) for value in call.args]
    if call.target in _SHAPED:
        positional[1] = {"shape": 0}
    named = {name: plain(value) for name, value in call.kwargs.items()}
    shape = tuple(OpenSize(((node, axis, 1),)) for axis in range(len(ops.shape(node))))
    text = json.dumps([positional, named], separators=(",", ":"), sort_keys=True)
    attributes = (("arguments", text), ("item", item), ("shape", shape), ("target", str(call.target)))
    return StepOp("fallback", (), attributes), tensors
