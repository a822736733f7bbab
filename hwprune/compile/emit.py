"""From a kernel description to TE: one table of emission functions, one stage per operator."""

from __future__ import annotations

from collections.abc import Callable

from hwprune.compile.emit_channels import channel_shuffle, channel_slice, pixel_shuffle
from hwprune.compile.emit_conv import conv2d, linear
from hwprune.compile.emit_elementwise import binary, cat, flatten, scale_shift, unary
from hwprune.compile.emit_norm import layer_norm, softmax
from hwprune.compile.emit_spatial import as_map, pad2d, spread, upsample_nearest
from hwprune.compile.emit_window import adaptive, avg_pool, depthwise, max_pool, mean
from hwprune.compile.emit_winograd import winograd_conv2d
from hwprune.compile.emitter import Emitted, Emitter, Value
from hwprune.compile.math_ops import UNARY
from hwprune.compile.shapes import Shape
from hwprune.compile.tvm_api import te
from hwprune.compile.winograd import is_winograd
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelOp, KernelSpec
from hwprune.target import Target

EMITTERS: dict[str, Callable[[Emitter, KernelOp, Shape], Value]] = {
    "conv2d": conv2d,
    "linear": linear,
    "depthwise_conv2d": depthwise,
    "max_pool2d": max_pool,
    "avg_pool2d": avg_pool,
    "adaptive_avg_pool2d": adaptive,
    "mean_hw": mean,
    "cat": cat,
    "add": binary,
    "mul": binary,
    "sub": binary,
    "div": binary,
    "scale_shift": scale_shift,
    "flatten": flatten,
    "layer_norm": layer_norm,
    "softmax": softmax,
    "channel_slice": channel_slice,
    "channel_shuffle": channel_shuffle,
    "pixel_shuffle": pixel_shuffle,
    "upsample_nearest": upsample_nearest,
    "pad2d": pad2d,
    "spread": spread,
    "as_map": as_map,
    **dict.fromkeys(UNARY, unary),
}


#: Operators that need an exponential.
COSTLY = frozenset(("silu", "sigmoid", "tanh", "gelu"))


def emit(spec: KernelSpec, target: Target, choice: Choice | None = None) -> Emitted:
    """TE stages of a kernel (:mod:`hwprune.compile.emitter` explains their names).

    Raises
    ------
    UnsupportedOperatorError
        Naming the operator without a lowering.
    """
    e = Emitter(spec, target, choice)
    for number, op in enumerate(spec.ops):
        if op.kind not in EMITTERS:
            raise UnsupportedOperatorError(f"operator '{op.kind}' has no lowering for CPUs")
        emitter = winograd_conv2d if op.kind == "conv2d" and is_winograd(choice) else EMITTERS[op.kind]
        e.values.append(emitter(e, op, e.shapes[len(spec.inputs) + number]))
    result = e.values[-1]
    if not result.tensor.op.name.startswith("e"):  # an input handed through
        tensor = result.tensor
        result = e.stage(result.shape, lambda *index: tensor[index])
    costly = any(op.kind in COSTLY for op in spec.ops)
    final, tensor = result.tensor.op.name, result.tensor
    if spec.plain_output and len(result.shape) == 4:
        lanes = e.lanes
        tensor = te.compute(
            result.shape,
            lambda n, c, h, w: result.tensor[n, c // lanes, h, w, c % lanes],
            name="unpack",
        )
    return Emitted(
        (*e.inputs, tensor),
        tensor,
        final,
        e.family,
        frozenset(e.kept),
        e.tile,
        e.weight_name,
        e.winograd,
        costly,
        e.by_rows,
    )
