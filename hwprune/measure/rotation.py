"""How many sets of weights a kernel is timed with, and the kernel every sweep is checked by."""

from __future__ import annotations

import math

from hwprune.compile.shapes import kernel_flops
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.kernel import KernelInput, KernelOp, KernelSpec

#: Weights are rotated through at least this much memory, more than a core's own caches hold.
ROTATION_BYTES = 32 * 2**20
#: All sets together stay below this.
MAX_TOTAL_BYTES = 2**30
MIN_COPIES = 4
MAX_COPIES = 64
#: One run of all copies does no more work than this (a few hundredths of a second of one core),
#: unless ``MIN_COPIES`` already do.
MAX_RUN_FLOPS = 2e9
#: Above this many operations per byte of weights, reading them from further away is less than
#: about 2 % of the kernel's time (10 GB/s against 100 GFLOP/s), and rotation only costs time.
RESIDENT_FLOPS_PER_BYTE = 500
#: Work of one run of such a kernel: still some milliseconds, to drown the overhead of the call.
RESIDENT_RUN_FLOPS = 2e8
_ITEM_BYTES = {"float32": 4, "float16": 2, "int8": 1}


def copies_for(spec: KernelSpec) -> int:
    """Sets of weights to call a kernel with, one after the other.

    In a network a kernel's weights were last read one inference ago and come from the outer
    cache or memory. Timed alone with one set they would sit in the inner cache and the kernel
    would look faster than it will be. Kernels without weights have nothing to rotate; the bytes
    of their inputs stand in, so that a short one is called often enough to drown the overhead of
    the call around it and a long one is not repeated for nothing. Kernels that work long on few
    weights are called fewer times.
    """
    weights = _bytes(spec, "weight")
    rotated = weights or _bytes(spec, "data") + _bytes(spec, "input")
    wanted = min(MAX_COPIES, math.ceil(ROTATION_BYTES / max(rotated, 1)))
    flops = _flops(spec)
    affordable = int(MAX_RUN_FLOPS // max(flops, 1))
    if flops > RESIDENT_FLOPS_PER_BYTE * weights:
        affordable = min(affordable, int(RESIDENT_RUN_FLOPS // max(flops, 1)))
    copies = max(MIN_COPIES, min(wanted, affordable))
    return max(1, min(copies, MAX_TOTAL_BYTES // max(weights, 1)))


def sentinel_spec() -> KernelSpec:
    """A plain 3x3 convolution, 64 to 64 channels at 28x28: timed again and again in every sweep."""
    return KernelSpec(
        (
            KernelInput((1, 64, 28, 28), "data"),
            KernelInput((64, 64, 3, 3), "weight"),
            KernelInput((64,), "weight"),
        ),
        (
            KernelOp(
                "conv2d",
                (0, 1, 2),
                (("dilation", (1, 1)), ("groups", 1), ("padding", (1, 1, 1, 1)), ("stride", (1, 1))),
            ),
            KernelOp("relu", (3,)),
        ),
    )


def _flops(spec: KernelSpec) -> int:
    try:
        return kernel_flops(spec)
    except UnsupportedOperatorError:
        return 0  # the build will say so


def _bytes(spec: KernelSpec, role: str) -> int:
    return sum(math.prod(i.shape) * _ITEM_BYTES.get(i.dtype, 4) for i in spec.inputs if i.role == role)
