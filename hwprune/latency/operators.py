"""How each ATen operator appears inside a fused kernel.

``ELEMENTWISE`` may follow an anchor in the same kernel; ``ANCHOR`` starts one; ``ALIAS``
operators cost nothing at inference. One small function per operator.
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


def shape(node: fx.Node) -> tuple[int, ...]:
    """Static shape of a tensor node."""
    return tuple(int(size) for size in node.meta["val"].shape)


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


# --- elementwise -----------------------------------------------------------------------------


def _clamp(node: fx.Node) -> KernelOp:
    a = arguments(node)
    low, high = a.get("min_val", a.get("min")), a.get("max_val", a.get("max"))
    if low == 0 and high is None:
        return KernelOp("relu", ())
    if low is None or high is None:
        raise unsupported(node, "is supported with both bounds, or with the lower bound 0 alone")
    return KernelOp("clamp", (), attributes(min=float(low), max=float(high)))


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
    aten.leaky_relu.default: _leaky,
    aten.hardswish.default: _plain("hardswish"),
    aten.hardsigmoid.default: _plain("hardsigmoid"),
    aten.silu.default: _plain("silu"),
    aten.sigmoid.default: _plain("sigmoid"),
    aten.tanh.default: _plain("tanh"),
    aten.gelu.default: _gelu,
}

BINARY: dict[Any, str] = {aten.add.Tensor: "add", aten.mul.Tensor: "mul", aten.sub.Tensor: "sub"}


# --- anchors ---------------------------------------------------------------------------------


def convolution(node: fx.Node) -> KernelOp:
    """``conv2d`` or ``depthwise_conv2d`` with explicit (top, left, bottom, right) padding."""
    a = arguments(node)
    x, w = shape(node.args[0]), shape(node.args[1])  # type: ignore[arg-type]
    stride, dilation, groups = pair(a["stride"]), pair(a["dilation"]), int(a["groups"])
    padding = _padding(node, a["padding"], w[2:], stride, dilation)
    if groups > 1 and groups == x[1]:
        if w[0] != x[1]:
            raise unsupported(node, f"with a depth multiplier ({x[1]} -> {w[0]} channels) has no kernel")
        return KernelOp("depthwise_conv2d", (), attributes(stride=stride, dilation=dilation, padding=padding))
    return KernelOp(
        "conv2d", (), attributes(stride=stride, dilation=dilation, padding=padding, groups=groups)
    )


def _padding(
    node: fx.Node, padding: Any, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        if stride != (1, 1):
            raise unsupported(node, "with padding 'same' needs stride 1")
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return (totals[0] // 2, totals[1] // 2, totals[0] - totals[0] // 2, totals[1] - totals[1] // 2)
    height, width = pair(padding)
    return (height, width, height, width)


def _max_pool(node: fx.Node) -> KernelOp:
    a = arguments(node)
    kernel = pair(a["kernel_size"])
    return KernelOp(
        "max_pool2d",
        (),
        attributes(
            kernel=kernel,
            stride=pair(a["stride"]) if a["stride"] else kernel,
            padding=pair(a["padding"]) * 2,
            dilation=pair(a["dilation"]),
            ceil_mode=int(bool(a["ceil_mode"])),
        ),
    )


def _avg_pool(node: fx.Node) -> KernelOp:
    a = arguments(node)
    if a["divisor_override"] is not None:
        raise unsupported(node, "with divisor_override has no kernel")
    kernel = pair(a["kernel_size"])
    return KernelOp(
        "avg_pool2d",
        (),
        attributes(
            kernel=kernel,
            stride=pair(a["stride"]) if a["stride"] else kernel,
            padding=pair(a["padding"]) * 2,
            ceil_mode=int(bool(a["ceil_mode"])),
            count_include_pad=int(bool(a["count_include_pad"])),
        ),
    )


def _adaptive_pool(node: fx.Node) -> KernelOp:
    output = pair(arguments(node)["output_size"])
    if output == (1, 1):
        return KernelOp("mean_hw", (), attributes(keepdim=1))
    return KernelOp("adaptive_avg_pool2d", (), attributes(output=output))


def _mean(node: fx.Node) -> KernelOp:
    a = arguments(node)
    rank = len(shape(node.args[0]))  # type: ignore[arg-type]
    dims = sorted(int(d) % rank for d in (a["dim"] or range(rank)))
    if rank != 4 or dims != [2, 3]:
        raise unsupported(node, "is supported over height and width of a feature map only")
    return KernelOp("mean_hw", (), attributes(keepdim=int(bool(a["keepdim"]))))


def _cat(node: fx.Node) -> KernelOp:
    rank = len(shape(node))
    if int(arguments(node)["dim"]) % rank != 1:
        raise unsupported(node, "is supported along channels only")
    return KernelOp("cat", ())


WEIGHTED: dict[Any, Callable[[fx.Node], KernelOp]] = {
    aten.conv2d.default: convolution,
    aten.conv2d.padding: convolution,
    aten.linear.default: _plain("linear"),
}

UNWEIGHTED: dict[Any, Callable[[fx.Node], KernelOp]] = {
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool2d.default: _avg_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_pool,
    aten.mean.dim: _mean,
    aten.cat.default: _cat,
}


def is_alias(node: fx.Node) -> bool:
    """Whether the node only hands its first input on (at inference)."""
    if node.target in (
        aten.dropout.default,
        aten.contiguous.default,
        aten.alias.default,
        aten.detach.default,
    ):
        return True
    if node.target is aten.adaptive_avg_pool2d.default:
        return shape(node) == shape(node.args[0])  # type: ignore[arg-type]
    if node.target in (aten.flatten.using_ints, aten.view.default, aten.reshape.default):
        return shape(node) == shape(node.args[0])  # type: ignore[arg-type]
    return False


def is_flatten(node: fx.Node) -> bool:
    """Whether the node turns [N,C,H,W] into [N,C*H*W]."""
    if node.target not in (aten.flatten.using_ints, aten.view.default, aten.reshape.default):
        return False
    before, after = shape(node.args[0]), shape(node)  # type: ignore[arg-type]
    return len(before) == 4 and len(after) == 2 and before[0] == after[0]


def is_batch_norm(node: fx.Node) -> bool:
    return node.target is aten.batch_norm.default
