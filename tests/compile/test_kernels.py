"""Every operator and schedule rule against float64 torch."""

from __future__ import annotations

import pytest

from hwprune.compile import compile_program
from hwprune.latency.kernel import OP_KINDS, KernelSpec
from hwprune.measure.device import usable_cores
from hwprune.target import load_target
from tests.compile.programs import (
    data,
    net_input,
    normal,
    op,
    reference,
    relative_error,
    several_kernels,
    weight,
)

UNARY = {
    "relu": {}, "clamp": {"min": 0.0, "max": 6.0}, "leaky_relu": {"slope": 0.1}, "hardswish": {},
    "hardsigmoid": {}, "silu": {}, "sigmoid": {}, "gelu": {"approximate": "none"}, "tanh": {},
}  # fmt: skip


def conv(n, c, h, w, o, k, s=1, p=None, g=1, d=1, bias=True, source=data, tail=(), pads=None):
    """A convolution with epilogue ops ``tail`` (built by functions of the value number)."""
    p = d * (k // 2) if p is None else p
    inputs = [source(n, c, h, w), weight(o, c // g, k, k)] + ([weight(o)] if bias else [])
    head = op(
        "conv2d", 0, 1, 2 if bias else -1,
        dilation=(d, d), groups=g, padding=pads or (p, p, p, p), stride=(s, s),
    )  # fmt: skip
    return KernelSpec(tuple(inputs), (head, *tail))


def depthwise(n, c, h, w, k, s=1, d=1, tail=()):
    p = d * (k // 2)
    head = op("depthwise_conv2d", 0, 1, 2, dilation=(d, d), padding=(p, p, p, p), stride=(s, s))
    return KernelSpec((data(n, c, h, w), weight(c, 1, k, k), weight(c)), (head, *tail))


def pool(kind, shape, k, s, p, ceil=0, include=1, d=1):
    more = {"dilation": (d, d)} if kind == "max_pool2d" else {"count_include_pad": include}
    return KernelSpec(
        (data(*shape),),
        (op(kind, 0, kernel=(k, k), stride=(s, s), padding=(p, p, p, p), ceil_mode=ceil, **more),),
    )


def unary(kind, *shape, **attributes):
    return KernelSpec((data(*shape),), (op(kind, 0, **attributes),))


def residual(c, o, h):
    """conv + bias, + another activation, relu."""
    inputs = (data(1, c, h, h), weight(o, c, 3, 3), weight(o), data(1, o, h, h))
    head = op("conv2d", 0, 1, 2, dilation=(1, 1), groups=1, padding=(1, 1, 1, 1), stride=(1, 1))
    return KernelSpec(inputs, (head, op("add", 4, 3), op("relu", 5)))


def linear(n, k, o, bias=True, tail=()):
    inputs = (data(n, k), weight(o, k), *((weight(o),) if bias else ()))
    return KernelSpec(inputs, (op("linear", 0, 1, 2 if bias else -1), *tail))


def flat_linear(n, c, h, o, source=data):
    inputs = (source(n, c, h, h), weight(o, c * h * h), weight(o))
    return KernelSpec(inputs, (op("flatten", 0), op("linear", 3, 1, 2), op("relu", 4)))


CONVOLUTIONS = [
    conv(1, 32, 12, 10, 64, 3),
    conv(1, 3, 17, 19, 20, 7, s=2, p=3, source=net_input, tail=(op("relu", 3),)),
    conv(2, 3, 9, 9, 16, 3, s=2, source=net_input),
    conv(1, 1, 8, 8, 3, 5, source=net_input),
    conv(2, 12, 7, 7, 20, 3, tail=(op("clamp", 3, min=0.0, max=6.0),)),
    conv(1, 3, 5, 5, 3, 1),
    conv(1, 20, 13, 11, 12, 3, s=2),
    conv(1, 64, 7, 7, 80, 1, bias=False),
    conv(1, 48, 14, 14, 33, 1, tail=(op("hardswish", 3),)),
    conv(1, 32, 9, 9, 16, 1, s=2, p=0),
    conv(1, 16, 11, 11, 16, 3, d=2),
    conv(1, 16, 8, 31, 16, 1),
    conv(1, 16, 6, 37, 112, 3),
    conv(1, 16, 8, 8, 16, 3, pads=(0, 1, 2, 0)),
    conv(1, 16, 8, 8, 16, 3, p=0),
    conv(1, 24, 1, 1, 40, 1),
    conv(2, 128, 7, 7, 80, 3),
    conv(1, 64, 9, 9, 64, 3, g=2),
    conv(1, 64, 9, 9, 64, 3, g=8, s=2),
    conv(1, 24, 9, 9, 36, 3, g=3),
    conv(1, 12, 9, 9, 24, 3, g=3, source=net_input),
    conv(1, 104, 9, 9, 104, 3, g=13),
    conv(1, 120, 9, 9, 120, 3, g=5, s=2, tail=(op("relu", 3),)),
    conv(1, 51, 6, 6, 34, 3, g=17),
    residual(32, 48, 9),
    residual(20, 12, 6),
    depthwise(1, 32, 14, 14, 3),
    depthwise(2, 20, 9, 11, 3, s=2, tail=(op("clamp", 3, min=0.0, max=6.0),)),
    depthwise(1, 3, 8, 8, 5, tail=(op("silu", 3),)),
    depthwise(1, 16, 15, 29, 3, d=2),
    depthwise(1, 16, 5, 41, 7),
    depthwise(1, 16, 5, 59, 3, s=2),
]

OTHERS = [
    *(unary(k, 2, 20, 5, 7, **a) for k, a in UNARY.items()),
    *(unary(k, 3, 37, **a) for k, a in UNARY.items()),
    unary("gelu", 1, 32, 4, 4, approximate="tanh"),
    KernelSpec((net_input(1, 3, 6, 6),), (op("relu", 0),)),
    pool("max_pool2d", (1, 20, 15, 15), 3, 2, 1),
    pool("max_pool2d", (2, 16, 12, 13), 2, 2, 0, ceil=1),
    pool("max_pool2d", (1, 16, 12, 12), 3, 1, 1, d=2),
    pool("max_pool2d", (1, 3, 14, 14), 3, 2, 0, ceil=1),
    pool("avg_pool2d", (1, 20, 14, 14), 2, 2, 0),
    pool("avg_pool2d", (1, 16, 13, 13), 3, 2, 1, include=1),
    pool("avg_pool2d", (1, 16, 13, 13), 3, 2, 1, include=0),
    pool("avg_pool2d", (1, 16, 13, 13), 3, 2, 1, ceil=1, include=1),
    pool("avg_pool2d", (1, 16, 14, 14), 3, 2, 1, ceil=1, include=0),
    pool("avg_pool2d", (1, 16, 14, 14), 3, 2, 0, ceil=1, include=1),
    pool("avg_pool2d", (1, 16, 3, 43), 3, 1, 1, include=0),
    pool("max_pool2d", (1, 16, 31, 31), 5, 1, 2),
    pool("avg_pool2d", (1, 16, 48, 48), 24, 24, 0),
    unary("adaptive_avg_pool2d", 1, 20, 9, 7, output=(1, 1)),
    unary("adaptive_avg_pool2d", 1, 20, 8, 12, output=(4, 3)),
    unary("adaptive_avg_pool2d", 1, 20, 10, 7, output=(4, 3)),
    unary("mean_hw", 2, 20, 7, 5, keepdim=0),
    unary("mean_hw", 2, 64, 7, 7, keepdim=1),
    KernelSpec((data(1, 20, 4, 4),), (op("mean_hw", 0, keepdim=0), op("relu", 1))),
    linear(1, 64, 10),
    linear(3, 37, 100, tail=(op("relu", 3),)),
    linear(2, 16, 128, bias=False),
    linear(8, 16, 96),
    flat_linear(2, 20, 3, 10),
    flat_linear(1, 32, 1, 100),
    flat_linear(1, 3, 4, 10, source=net_input),
    unary("flatten", 2, 20, 3, 5),
    KernelSpec((data(1, 32, 5, 5), data(1, 16, 5, 5)), (op("cat", 0, 1),)),
    KernelSpec((data(1, 32, 5, 5), data(1, 20, 5, 5), data(1, 3, 5, 5)), (op("cat", 0, 1, 2),)),
    KernelSpec((data(2, 12, 5, 5), data(2, 20, 5, 5)), (op("cat", 0, 1), op("relu", 2))),
    KernelSpec((data(2, 12), data(2, 20)), (op("cat", 0, 1),)),
    KernelSpec(
        (data(1, 32, 5, 5), data(1, 16, 5, 5), weight(48), weight(48)),
        (op("cat", 0, 1), op("scale_shift", 4, 2, 3), op("relu", 5)),
    ),
    KernelSpec((data(1, 20, 5, 5), weight(20), weight(20)), (op("scale_shift", 0, 1, 2),)),
    KernelSpec((data(2, 20), weight(20), weight(20)), (op("scale_shift", 0, 1, 2),)),
    KernelSpec((data(2, 20, 5, 5), data(2, 20, 5, 5)), (op("add", 0, 1), op("relu", 2))),
    KernelSpec((data(2, 20, 5, 5), data(2, 20, 1, 1)), (op("mul", 0, 1),)),
    KernelSpec((data(2, 20, 1, 1), data(2, 20, 5, 5)), (op("mul", 0, 1),)),
    KernelSpec((data(2, 20, 5, 5), data(2, 20, 1, 1)), (op("sigmoid", 1), op("mul", 0, 2))),
    KernelSpec((data(1, 20, 5, 5), weight(1, 20, 5, 5)), (op("sub", 0, 1),)),
    KernelSpec((data(2, 20), data(2, 20)), (op("sub", 0, 1),)),
    KernelSpec((data(1, 16, 5, 5),), (op("sigmoid", 0), op("mul", 0, 1))),
]


def run_all(specs, target):
    """Compile all kernels as one program and return their relative errors."""
    program = several_kernels(specs)
    module = compile_program(program, target)
    inputs = [3 * normal(*shape) for shape in program.input_shapes]
    return [
        relative_error(got, expected)
        for got, expected in zip(module.run(*inputs), reference(program, inputs), strict=True)
    ]


@pytest.mark.parametrize("name", ["host", "x86-64-avx2"])
@pytest.mark.parametrize("specs", [CONVOLUTIONS, OTHERS], ids=["convolutions", "others"])
def test_kernels_equal_torch(specs, name):
    target = load_target(name)
    if name != "host":
        if load_target("host").isa not in ("avx2", "avx512"):
            pytest.skip("needs a machine with AVX2")
        specs = specs[::2]
    errors = run_all(specs, target)
    bad = {spec.label(): e for spec, e in zip(specs, errors, strict=True) if not e < 1e-4}
    assert not bad


def test_every_operator_is_covered():
    from tests.compile.test_operators import MORE

    assert {o.kind for spec in CONVOLUTIONS + OTHERS + MORE for o in spec.ops} == set(OP_KINDS)


def test_scalar_code_has_no_lanes_to_pack():
    scalar = load_target("host").model_copy(update={"isa": "scalar", "tvm": {"kind": "llvm"}})
    specs = [
        conv(1, 5, 7, 7, 3, 3),
        depthwise(1, 3, 6, 6, 3),
        linear(2, 7, 5),
        unary("gelu", 1, 3, 2, 2, approximate="none"),
    ]
    assert max(run_all(specs, scalar)) < 1e-4


def test_two_threads_give_the_same():
    if len(usable_cores()) < 2:
        pytest.skip("needs two cores")
    target = load_target("host").model_copy(update={"threads": 2})
    specs = [
        conv(1, 32, 12, 12, 64, 3),  # by rows
        conv(2, 32, 12, 12, 48, 3, 2),  # by rows, two images
        conv(1, 256, 7, 7, 96, 3),  # by channels, weights prefetched
        conv(1, 512, 4, 4, 64, 1),  # by channels, the whole map for each block of inputs
        depthwise(1, 64, 16, 16, 3),  # by rows
        depthwise(1, 64, 15, 15, 3),  # by channels
        linear(1, 64, 256),
        pool("max_pool2d", (1, 64, 16, 16), 3, 2, 1),
    ]
    assert max(run_all(specs, target)) < 1e-4


def test_large_weights_are_prefetched():
    from hwprune.compile.primfunc import build_primfunc

    host = load_target("host")
    for threads in (1, 2):
        target = host.model_copy(update={"threads": threads})
        assert "prefetch" in build_primfunc(conv(1, 128, 7, 7, 80, 3), target).script()
        assert "prefetch" not in build_primfunc(conv(1, 16, 7, 7, 16, 3), target).script()
