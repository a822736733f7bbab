"""Runs a Program operator by operator with torch in float64: fusion and folding without a compiler."""

from __future__ import annotations

import json

import torch
from torch.nn import functional as f

from hwprune.latency.kernel import KernelOp
from hwprune.latency.program import Program, Source


def run(program: Program, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of a program, float64."""
    results: list[torch.Tensor] = []

    def value(source: Source) -> torch.Tensor:
        if source.kind == "input":
            return inputs[source.index].double()
        if source.kind == "step":
            return results[source.index]
        return torch.from_numpy(program.weights[source.index].copy()).double()

    for step in program.steps:
        values = [value(s) for s in step.sources]
        for given, wanted in zip(values, step.spec.inputs, strict=True):
            assert tuple(given.shape) == wanted.shape, step.name
        for op in step.spec.ops:
            values.append(_apply(op, [values[a] if a >= 0 else None for a in op.args]))
        results.append(values[-1].contiguous())  # as a kernel leaves it
    return [value(s) for s in program.outputs]


def _apply(op: KernelOp, args: list) -> torch.Tensor:
    a = dict(op.attributes)
    x = args[0]
    if op.kind in ("conv2d", "depthwise_conv2d"):
        top, left, bottom, right = a["padding"]
        groups = a.get("groups", x.shape[1])
        x = f.pad(x, (left, right, top, bottom))
        return f.conv2d(x, args[1], args[2], a["stride"], 0, a["dilation"], groups)
    if op.kind == "max_pool2d":
        return f.max_pool2d(
            x, a["kernel"], a["stride"], a["padding"][:2], a["dilation"], bool(a["ceil_mode"])
        )
    if op.kind == "avg_pool2d":
        pad, ceil = a["padding"][:2], bool(a["ceil_mode"])
        return f.avg_pool2d(x, a["kernel"], a["stride"], pad, ceil, bool(a["count_include_pad"]))
    per_channel = (1, -1, *[1] * (x.ndim - 2))
    table = {
        "linear": lambda: f.linear(*args),
        "adaptive_avg_pool2d": lambda: f.adaptive_avg_pool2d(x, a["output"]),
        "mean_hw": lambda: x.mean((2, 3), keepdim=bool(a["keepdim"])),
        "cat": lambda: torch.cat(args, 1),
        "flatten": lambda: x.flatten(1),
        "layer_norm": lambda: _layer_norm(x, args[1], args[2], a["eps"]),
        "softmax": lambda: x.softmax(1),
        "channel_slice": lambda: x[:, a["start"] : a["start"] + a["length"]],
        "channel_shuffle": lambda: f.channel_shuffle(x, a["groups"]),
        "pixel_shuffle": lambda: f.pixel_shuffle(x, a["factor"]),
        "upsample_nearest": lambda: x.repeat_interleave(a["scale"][0], 2).repeat_interleave(a["scale"][1], 3),
        "pad2d": lambda: f.pad(x, [a["padding"][i] for i in (1, 3, 0, 2)], value=a["value"]),
        "as_map": lambda: x[:, :, None, None],
        "spread": lambda: _spread(x, a["stride"]),
        "affine": lambda: x * a["scale"] + a["shift"],
        "div": lambda: x / args[1],
        "fallback": lambda: _fallback(a, args),
        "scale_shift": lambda: x * args[1].reshape(per_channel) + args[2].reshape(per_channel),
        "add": lambda: x + args[1],
        "sub": lambda: x - args[1],
        "mul": lambda: x * args[1],
        "relu": lambda: x.relu(),
        "clamp": lambda: x.clamp(a["min"], a["max"]),
        "leaky_relu": lambda: f.leaky_relu(x, a["slope"]),
        "hardswish": lambda: f.hardswish(x),
        "hardsigmoid": lambda: f.hardsigmoid(x),
        "silu": lambda: f.silu(x),
        "sigmoid": lambda: x.sigmoid(),
        "tanh": lambda: x.tanh(),
        "gelu": lambda: f.gelu(x, approximate=a["approximate"]),
    }
    return table[op.kind]()


def _layer_norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    last = x.movedim(1, -1)
    return f.layer_norm(last, last.shape[-1:], weight, bias, eps).movedim(-1, 1)


def _spread(x: torch.Tensor, stride: tuple[int, int]) -> torch.Tensor:
    n, c, h, w = x.shape
    out = x.new_zeros(n, c, (h - 1) * stride[0] + 1, (w - 1) * stride[1] + 1)
    out[:, :, :: stride[0], :: stride[1]] = x
    return out


def _fallback(a: dict, args: list) -> torch.Tensor:
    def value(given: object) -> object:
        if isinstance(given, dict):
            return args[given["tensor"]] if "tensor" in given else list(a["shape"])
        return [value(v) for v in given] if isinstance(given, list) else given

    _, name, overload = a["target"].split(".")
    positional, named = json.loads(a["arguments"])
    call = getattr(getattr(torch.ops.aten, name), overload)
    out = call(*value(positional), **{k: value(v) for k, v in named.items()})
    out = out if a["item"] < 0 else out[a["item"]]
    assert tuple(out.shape) == a["shape"]
    return out
