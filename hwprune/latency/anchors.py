"""The operators that kernels begin with: convolutions, linear layers, pooling and what resizes maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from hwprune.latency.kernel import KernelOp
from hwprune.latency.operators import arguments, aten, attributes, pair, shape, unsupported


def convolution(node: fx.Node) -> KernelOp:
    """``conv2d`` or ``depthwise_conv2d`` with explicit (top, left, bottom, right) padding."""
    a = arguments(node)
    x, w = shape(node.args[0]), shape(node.args[1])  # type: ignore[arg-type]
    stride, dilation, groups = pair(a["stride"]), pair(a["dilation"]), int(a["groups"])
    padding = _padding(node, a["padding"], w[2:], stride, dilation)
    if groups > 1 and groups == x[1] == w[0]:
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


def _upsample(node: fx.Node) -> KernelOp:
    before, after = shape(node.args[0]), shape(node)  # type: ignore[arg-type]
    scale = (after[2] // before[2], after[3] // before[3])
    if (before[2] * scale[0], before[3] * scale[1]) != after[2:]:
        raise unsupported(node, "has a kernel for whole factors only")
    return KernelOp("upsample_nearest", (), attributes(scale=scale))


def padding_of(node: fx.Node) -> tuple[tuple[int, int, int, int], float] | None:
    """(top, left, bottom, right) and value of a constant spatial padding; None for other padding."""
    a = arguments(node)
    amounts = [int(n) for n in a["pad"]]
    amounts += [0] * (2 * len(shape(node)) - len(amounts))
    if a.get("mode", "constant") != "constant" or min(amounts) < 0 or any(amounts[4:]):
        return None
    left, right, top, bottom = amounts[:4]
    return (top, left, bottom, right), float(a.get("value") or 0.0)


def _pad(node: fx.Node) -> KernelOp:
    found = padding_of(node)
    if found is None or len(shape(node)) != 4:
        raise unsupported(node, "has a kernel for constant spatial padding only")
    return KernelOp("pad2d", (), attributes(padding=found[0], value=found[1]))


def transposed(node: fx.Node) -> tuple[KernelOp, KernelOp]:
    """A transposed convolution as ``spread`` (zeros between pixels) and a convolution."""
    a = arguments(node)
    kernel = shape(node.args[1])[2:]  # type: ignore[arg-type]
    stride, dilation = pair(a["stride"]), pair(a["dilation"])
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    top, left = (r - p for r, p in zip(reach, pair(a["padding"]), strict=True))
    more = pair(a["output_padding"])
    if top < 0 or left < 0:
        raise unsupported(node, "with more padding than kernel has no kernel")
    padding = (top, left, top + more[0], left + more[1])
    convolution_ = attributes(stride=(1, 1), dilation=dilation, padding=padding, groups=int(a["groups"]))
    return KernelOp("spread", (), attributes(stride=stride)), KernelOp("conv2d", (), convolution_)


CONVOLUTIONS = frozenset((aten.conv2d.default, aten.conv2d.padding))

WEIGHTED: dict[Any, Callable[[fx.Node], KernelOp]] = {
    aten.conv2d.default: convolution,
    aten.conv2d.padding: convolution,
    aten.linear.default: lambda node: KernelOp("linear", ()),
}

UNWEIGHTED: dict[Any, Callable[[fx.Node], KernelOp]] = {
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool2d.default: _avg_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_pool,
    aten.upsample_nearest2d.vec: _upsample,
    aten.upsample_nearest2d.default: _upsample,
    aten.pixel_shuffle.default: lambda node: KernelOp(
        "pixel_shuffle", (), attributes(factor=int(arguments(node)["upscale_factor"]))
    ),
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
}
