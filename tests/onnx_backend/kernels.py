"""Kernels of every kind for this backend, some of which only it treats in a way of its own."""

from __future__ import annotations

from hwprune.latency.kernel import KernelSpec
from tests.compile.programs import data, op, weight
from tests.compile.test_kernels import CONVOLUTIONS, OTHERS
from tests.compile.test_operators import MORE, UNIT

#: Transposed convolutions (zeros spread, then a convolution): grouped, one that cuts off more than
#: ConvTranspose can, one whose spread tensor has a second reader.
TRANSPOSED = [
    KernelSpec(
        (data(1, 24, 5, 7), weight(36, 8, 3, 2), weight(36)),
        (
            op("spread", 0, stride=(2, 3)),
            op("conv2d", 3, 1, 2, dilation=(1, 2), groups=3, padding=(2, 1, 1, 2), stride=(1, 1)),
        ),
    ),
    KernelSpec(
        (data(2, 16, 5, 5), weight(16, 1, 4, 4)),
        (
            op("spread", 0, stride=(2, 2)),
            op("depthwise_conv2d", 2, 1, -1, dilation=(1, 1), padding=(2, 2, 2, 2), stride=(1, 1)),
        ),
    ),
    KernelSpec(
        (data(1, 16, 6, 6), weight(20, 16, 2, 2)),
        (op("spread", 0, stride=(2, 2)), op("conv2d", 2, 1, -1, padding=(3, 3, 2, 2), **UNIT)),
    ),
    KernelSpec(
        (data(1, 16, 6, 6), weight(16, 16, 1, 1)),
        (
            op("spread", 0, stride=(2, 2)),
            op("conv2d", 2, 1, -1, padding=(0, 0, 0, 0), **UNIT),
            op("add", 2, 3),
        ),
    ),
]  # fmt: skip
#: Negative padding cuts rows and columns off.
CUTTING = [
    KernelSpec(
        (data(1, 16, 9, 9), weight(16, 16, 3, 3)),
        (op("conv2d", 0, 1, -1, padding=(-1, 0, -2, 1), **UNIT),),
    ),
    KernelSpec((data(1, 16, 9, 9),), (op("pad2d", 0, padding=(-1, 2, 0, -3), value=0.5),)),
    KernelSpec((data(1, 16, 9, 9),), (op("pad2d", 0, padding=(1, 1, 1, 1), value=0.0),)),
]
#: One bound only, nothing to do, a matrix that becomes a map.
REST = [
    KernelSpec((data(1, 20, 4, 4),), (op("clamp", 0, min=-0.5, max=float("inf")),)),
    KernelSpec((data(1, 20, 4, 4),), (op("affine", 0, scale=1.0, shift=0.0),)),
    KernelSpec((data(1, 12), weight(8, 12)), (op("linear", 0, 1, -1), op("as_map", 2))),
    KernelSpec((data(1, 8, 4, 4),), (op("gelu", 0, approximate="tanh"),)),
]
KERNELS: list[KernelSpec] = [*CONVOLUTIONS, *OTHERS, *MORE, *TRANSPOSED, *CUTTING, *REST]
