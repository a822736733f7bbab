"""What a kernel should return, by PyTorch: independent of our layouts, emitters and schedules.

Tensors are logical (NCHW), as :class:`hwprune.latency.kernel.KernelSpec` describes them. One small
function per operator kind; a kind without one cannot be checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as f

from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.kernel import KernelOp, KernelSpec

Attributes = Mapping[str, Any]
#: Arguments that are absent are None.
Arguments = Sequence[Any]


def reference(spec: KernelSpec, inputs: Sequence[Tensor]) -> Tensor:
    """The result of a kernel for logical inputs, in their dtype.

    Raises
    ------
    UnsupportedOperatorError
        For an operator kind that has no function here.
    """
    values = list(inputs)
    with torch.no_grad():
        for op in spec.ops:
            values.append(_apply(op, [values[a] if a >= 0 else None for a in op.args]))
    return values[-1]


def _apply(op: KernelOp, args: Arguments) -> Tensor:
    if op.kind not in REFERENCES:
        raise UnsupportedOperatorError(f"operator '{op.kind}' has no reference to be compared with")
    return REFERENCES[op.kind](dict(op.attributes), args)


def _padded(x: Tensor, padding: Sequence[int], value: float = 0.0) -> Tensor:
    top, left, bottom, right = padding
    return f.pad(x, (left, right, top, bottom), value=value) if any(padding) else x


def _conv(a: Attributes, args: Arguments) -> Tensor:
    x, weight, bias = args
    groups = int(a.get("groups", x.shape[1]))  # depthwise convolutions do not say
    return f.conv2d(_padded(x, a["padding"]), weight, bias, a["stride"], 0, a["dilation"], groups)


def _max_pool(a: Attributes, args: Arguments) -> Tensor:
    return f.max_pool2d(
        args[0], a["kernel"], a["stride"], _both_sides(a), a["dilation"], bool(a["ceil_mode"])
    )


def _avg_pool(a: Attributes, args: Arguments) -> Tensor:
    counted = bool(a["count_include_pad"])
    return f.avg_pool2d(args[0], a["kernel"], a["stride"], _both_sides(a), bool(a["ceil_mode"]), counted)


def _both_sides(a: Attributes) -> tuple[int, ...]:
    """Padding of a pooling, which PyTorch has on both sides alike."""
    top, left, bottom, right = a["padding"]
    if (top, left) != (bottom, right):
        raise UnsupportedOperatorError("pooling with lopsided padding has no reference to be compared with")
    return top, left


def _scale_shift(a: Attributes, args: Arguments) -> Tensor:
    x, scale, shift = args
    per_channel = (1, -1, *[1] * (x.ndim - 2))
    return x * scale.reshape(per_channel) + shift.reshape(per_channel)


def _layer_norm(a: Attributes, args: Arguments) -> Tensor:
    x, weight, bias = args
    last = x.movedim(1, -1)
    return f.layer_norm(last, last.shape[-1:], weight, bias, float(a["eps"])).movedim(-1, 1)


def _channel_slice(a: Attributes, args: Arguments) -> Tensor:
    return args[0].narrow(1, int(a["start"]), int(a["length"]))


def _spread(a: Attributes, args: Arguments) -> Tensor:
    x, (rows, columns) = args[0], a["stride"]
    n, c, h, w = x.shape
    result = x.new_zeros(n, c, (h - 1) * rows + 1, (w - 1) * columns + 1)
    result[:, :, ::rows, ::columns] = x
    return result


def _upsample(a: Attributes, args: Arguments) -> Tensor:
    rows, columns = a["scale"]
    return args[0].repeat_interleave(rows, 2).repeat_interleave(columns, 3)


def _fallback(a: Attributes, args: Arguments) -> Tensor:
    """One ATen operator; ``arguments`` says where its tensors and the wanted shape go."""

    def value(given: Any) -> Any:
        if isinstance(given, dict):
            return args[given["tensor"]] if "tensor" in given else list(a["shape"])
        return [value(v) for v in given] if isinstance(given, list) else given

    _, name, overload = str(a["target"]).split(".")
    positional, named = json.loads(a["arguments"])
    call = getattr(getattr(torch.ops.aten, name), overload)
    result = call(*value(positional), **{k: value(v) for k, v in named.items()})
    item = int(a.get("item", -1))
    return result if item < 0 else result[item]


REFERENCES: dict[str, Callable[[Attributes, Arguments], Tensor]] = {
    "conv2d": _conv,
    "depthwise_conv2d": _conv,
    "linear": lambda a, x: f.linear(*x),
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "adaptive_avg_pool2d": lambda a, x: f.adaptive_avg_pool2d(x[0], a["output"]),
    "mean_hw": lambda a, x: x[0].mean((2, 3), keepdim=bool(a["keepdim"])),
    "cat": lambda a, x: torch.cat(list(x), 1),
    "layer_norm": _layer_norm,
    "softmax": lambda a, x: x[0].softmax(1),
    "channel_slice": _channel_slice,
    "channel_shuffle": lambda a, x: f.channel_shuffle(x[0], int(a["groups"])),
    "pixel_shuffle": lambda a, x: f.pixel_shuffle(x[0], int(a["factor"])),
    "upsample_nearest": _upsample,
    "pad2d": lambda a, x: _padded(x[0], a["padding"], float(a["value"])),
    "as_map": lambda a, x: x[0][:, :, None, None],
    "fallback": _fallback,
    "scale_shift": _scale_shift,
    "affine": lambda a, x: x[0] * a["scale"] + a["shift"],
    "add": lambda a, x: x[0] + x[1],
    "mul": lambda a, x: x[0] * x[1],
    "sub": lambda a, x: x[0] - x[1],
    "div": lambda a, x: x[0] / x[1],
    "relu": lambda a, x: x[0].relu(),
    "clamp": lambda a, x: x[0].clamp(a["min"], a["max"]),
    "leaky_relu": lambda a, x: f.leaky_relu(x[0], float(a["slope"])),
    "hardswish": lambda a, x: f.hardswish(x[0]),
    "hardsigmoid": lambda a, x: f.hardsigmoid(x[0]),
    "silu": lambda a, x: f.silu(x[0]),
    "sigmoid": lambda a, x: x[0].sigmoid(),
    "gelu": lambda a, x: f.gelu(x[0], approximate=str(a.get("approximate", "none"))),
    "tanh": lambda a, x: x[0].tanh(),
    "flatten": lambda a, x: x[0].flatten(1),
    "spread": _spread,
}
