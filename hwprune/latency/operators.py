"""How each ATen operator appears inside a fused kernel.

``UNARY`` and ``BINARY`` operators may follow an anchor (:mod:`hwprune.latency.anchors`) in the same
kernel; ``PASSING`` ones cost nothing at inference. One small function per operator; those that raise
:class:`~hwprune.errors.UnsupportedOperatorError` leave the node to the fallback.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.kernel import AttributeValue, KernelOp

aten = torch.ops.aten
Attributes = tuple[tuple[str, AttributeValue], ...]


def arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of an ATen call by their schema names, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    named = {a.name: a.default_value for a in schema if a.has_default_value()}
    named.update(zip((a.name for a in schema), node.args, strict=False))
    named.update(node.kwargs)
    return named


def read_attribute(graph: fx.GraphModule, node: fx.Node) -> Any:
    """What a ``get_attr`` node reads."""
    owner: Any = graph
    for part in str(node.target).split("."):
        owner = getattr(owner, part)
    return owner


def shape(node: fx.Node) -> tuple[int, ...]:
    """Static shape of a tensor node; () for an operator with several results."""
    value = node.meta["val"]
    if isinstance(value, (list, tuple)):
        return ()
    return tuple(int(size) for size in value.shape)


def pair(value: Any) -> tuple[int, int]:
    """An integer, or a list of one or two, as (height, width)."""
    values = [value] if isinstance(value, int) else list(value)
    return (int(values[0]), int(values[-1]))


def where(node: fx.Node) -> str:
    """Name for messages and steps: the module path where there is one."""
    stack = node.meta.get("nn_module_stack")
    path = list(stack.values())[-1][0] if stack else ""
    return path.removeprefix("L['self'].") or node.name


def attributes(**values: AttributeValue) -> Attributes:
    return tuple(sorted(values.items()))


def unsupported(node: fx.Node, reason: str) -> UnsupportedOperatorError:
    return UnsupportedOperatorError(
        f"'{where(node)}': operator {node.target} {reason}",
        hint="exclude this part of the network, or split the model in front of it",
    )


FLOAT_MAX = 3.4028234663852886e38


def _clamp(node: fx.Node) -> KernelOp:
    a = arguments(node)
    low, high = a.get("min_val", a.get("min")), a.get("max_val", a.get("max"))
    if low == 0 and high is None:
        return KernelOp("relu", ())
    low = -FLOAT_MAX if low is None else max(float(low), -FLOAT_MAX)
    high = FLOAT_MAX if high is None else min(float(high), FLOAT_MAX)
    return KernelOp("clamp", (), attributes(min=low, max=high))


def _leaky(node: fx.Node) -> KernelOp:
    return KernelOp("leaky_relu", (), attributes(slope=float(arguments(node)["negative_slope"])))


def _gelu(node: fx.Node) -> KernelOp:
    return KernelOp("gelu", (), attributes(approximate=str(arguments(node)["approximate"])))


def _plain(kind: str) -> Callable[[fx.Node], KernelOp]:
    return lambda node: KernelOp(kind, ())


UNARY: dict[Any, Callable[[fx.Node], KernelOp]] = {
    aten.relu.default: _plain("relu"),
    aten.relu6.default: lambda node: KernelOp("clamp", (), attributes(min=0.0, max=6.0)),
    aten.hardtanh.default: _clamp,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: _clamp,
    aten.leaky_relu.default: _leaky,
    aten.hardswish.default: _plain("hardswish"),
    aten.hardsigmoid.default: _plain("hardsigmoid"),
    aten.silu.default: _plain("silu"),
    aten.sigmoid.default: _plain("sigmoid"),
    aten.tanh.default: _plain("tanh"),
    aten.gelu.default: _gelu,
}

BINARY: dict[Any, str] = {
    getattr(getattr(aten, kind), overload): kind
    for kind in ("add", "mul", "sub", "div")
    for overload in ("Tensor", "Scalar")
}
BINARY[aten.rsub.Scalar] = "sub"

#: Operators that hand their first input on at inference.
PASSING = frozenset(
    (
        aten.dropout.default,
        aten.feature_dropout.default,
        aten.contiguous.default,
        aten.clone.default,
        aten.alias.default,
        aten.detach.default,
    )
)

PADS = frozenset((aten.pad.default, aten.constant_pad_nd.default))
RESHAPES = frozenset((aten.flatten.using_ints, aten.view.default, aten.reshape.default))
#: Operators that change nothing where they keep the shape.
_SHAPERS = RESHAPES | {
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.expand.default,
    aten.adaptive_avg_pool2d.default,
}


def is_alias(node: fx.Node) -> bool:
    """Whether the node only hands its first input on (at inference)."""
    if node.target in PASSING:
        return True
    if node.target in PADS:
        return not any(arguments(node)["pad"])
    return node.target in _SHAPERS and shape(node) == shape(node.args[0])  # type: ignore[arg-type]


def is_flatten(node: fx.Node) -> bool:
    """Whether the node turns [N,C,H,W] into [N,C*H*W]."""
    if node.target not in _SHAPERS:
        return False
    before, after = shape(node.args[0]), shape(node)  # type: ignore[arg-type]
    if len(before) != 4 or len(after) != 2 or before[0] != after[0]:
        return False
    return node.target in RESHAPES or after == before[:2]


def is_as_map(node: fx.Node) -> bool:
    """Whether the node turns [N,C] into [N,C,1,1]."""
    if node.target not in RESHAPES:
        return False
    before, after = shape(node.args[0]), shape(node)  # type: ignore[arg-type]
    return len(before) == 2 and after == (*before, 1, 1)


def is_batch_norm(node: fx.Node) -> bool:
    """Whether the node is a BatchNorm with fixed statistics."""
    return node.target is aten.batch_norm.default and not bool(node.args[5])
