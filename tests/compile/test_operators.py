"""Operators that move or normalise channels, and the fallback, compiled: against float64 torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hwprune.compile import compile_program
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.kernel import KernelInput, KernelSpec
from hwprune.latency.program import Source
from hwprune.measure.device import usable_cores
from hwprune.target import load_target
from tests.compile.programs import data, net_input, normal, op, relative_error, several_kernels, weight
from tests.latency.interpreter import run

UNIT = {"stride": (1, 1), "dilation": (1, 1), "groups": 1}


def shuffled(first: int, second: int, size: int, start: int) -> KernelSpec:
    """ShuffleNet's unit: concatenation, shuffle, one half."""
    count = first + second
    return KernelSpec(
        (data(1, first, size, size), data(1, second, size, size)),
        (
            op("cat", 0, 1),
            op("channel_shuffle", 2, groups=2),
            op("channel_slice", 3, start=start, length=count // 2),
        ),
    )


def fallback(target: str, arguments: str, *inputs: KernelInput, shape: tuple[int, ...]) -> KernelSpec:
    """One ATen operator on plain tensors."""
    call = op("fallback", *range(len(inputs)), target=target, arguments=arguments, item=-1, shape=shape)
    return KernelSpec(inputs, (call,), plain_output=len(shape) == 4)


MORE = [
    KernelSpec((data(2, 20, 5, 7), weight(20), weight(20)), (op("layer_norm", 0, 1, 2, eps=1e-6),)),
    KernelSpec((data(1, 32, 4, 4),), (op("layer_norm", 0, -1, -1, eps=1e-5), op("relu", 1))),
    KernelSpec((net_input(1, 5, 4, 4), weight(5)), (op("layer_norm", 0, 1, -1, eps=1e-5),)),
    KernelSpec((data(2, 37), weight(37), weight(37)), (op("layer_norm", 0, 1, 2, eps=1e-6),)),
    KernelSpec((data(2, 20, 5, 7),), (op("softmax", 0),)),
    KernelSpec((data(2, 1000),), (op("softmax", 0),)),
    KernelSpec((data(2, 64),), (op("softmax", 0),)),
    shuffled(58, 58, 5, 58),
    shuffled(29, 7, 4, 0),
    KernelSpec((data(1, 600, 2, 3),), (op("channel_shuffle", 0, groups=3), op("relu", 1))),
    KernelSpec((data(1, 58, 5, 7),), (op("channel_slice", 0, start=29, length=20), op("sigmoid", 1))),
    KernelSpec((data(1, 58, 5, 7),), (op("channel_slice", 0, start=16, length=20),)),
    KernelSpec((data(2, 58),), (op("channel_slice", 0, start=7, length=20),)),
    KernelSpec((data(1, 36, 5, 7),), (op("pixel_shuffle", 0, factor=2),)),
    KernelSpec((data(1, 36, 5, 7),), (op("upsample_nearest", 0, scale=(2, 3)),)),
    KernelSpec((data(1, 36, 5, 7),), (op("pad2d", 0, padding=(1, 0, 2, 3), value=1.5),)),
    KernelSpec((data(2, 36),), (op("as_map", 0), op("relu", 1))),
    KernelSpec((data(1, 36, 5, 7),), (op("spread", 0, stride=(2, 3)),)),
    KernelSpec(
        (data(1, 36, 5, 7), weight(20, 36, 3, 3), weight(20)),
        (op("spread", 0, stride=(2, 2)), op("conv2d", 3, 1, 2, padding=(1, 1, 2, 2), **UNIT)),
    ),
    KernelSpec(
        (data(1, 36, 5, 7), weight(20, 36, 1, 1)),
        (op("spread", 0, stride=(2, 2)), op("conv2d", 2, 1, -1, padding=(0, 0, 0, 0), **UNIT)),
    ),
    KernelSpec(
        (data(2, 20, 5, 7), data(2, 20, 5, 7)),
        (op("div", 0, 1), op("affine", 2, scale=0.5, shift=3.0)),
    ),
    fallback("aten.elu.default", '[[{"tensor":0},0.5],{}]', net_input(1, 20, 5, 5), shape=(1, 20, 5, 5)),
    fallback(
        "aten.group_norm.default",
        '[[{"tensor":0},4,{"tensor":1},{"tensor":2}],{}]',
        net_input(1, 20, 5, 5), weight(20), weight(20),
        shape=(1, 20, 5, 5),
    ),
    fallback("aten.view.default", '[[{"tensor":0},{"shape":0}],{}]', net_input(1, 20, 5, 5), shape=(20, 25)),
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
def test_operators_equal_torch(threads: int) -> None:
    if threads > len(usable_cores()):
        pytest.skip("needs two cores")
    specs = MORE if threads == 1 else MORE[::3]
    program = several_kernels(specs)
    module = compile_program(program, load_target("host").model_copy(update={"threads": threads}))
    inputs = [3 * normal(*shape) for shape in program.input_shapes]
    expected = run(program, *[torch.from_numpy(x) for x in inputs])
    found = module.run(*inputs)
    errors = {
        spec.label(): relative_error(got, want.numpy())
        for spec, got, want in zip(specs, found, expected, strict=True)
    }
    assert not {label: e for label, e in errors.items() if not e < 1e-5}


def test_the_tail_of_a_quotient_stays_finite() -> None:
    """x / y in a network: the lanes behind the last channel feed a convolution."""
    specs = [
        KernelSpec((data(1, 5, 4, 4), data(1, 5, 4, 4)), (op("div", 0, 1),)),
        KernelSpec(
            (data(1, 5, 4, 4), weight(6, 5, 1, 1)),
            (op("conv2d", 0, 1, -1, padding=(0, 0, 0, 0), **UNIT),),
        ),
    ]
    program = several_kernels(specs)
    chained = replace(program.steps[1], sources=(Source("step", 0), *program.steps[1].sources[1:]))
    program = replace(program, input_shapes=program.input_shapes[:2], steps=(program.steps[0], chained))
    program = replace(program, outputs=(Source("step", 1),))
    inputs = [normal(*shape) for shape in program.input_shapes]
    (found,) = compile_program(program, load_target("host")).run(*inputs)
    (expected,) = run(program, *[torch.from_numpy(x) for x in inputs])
    assert relative_error(found, expected.numpy()) < 1e-5


def test_operators_that_nobody_lowers_are_named_before_anything_is_built() -> None:
    spec = fallback("aten.cumsum.default", '[[{"tensor":0},1],{}]', net_input(1, 3, 4, 4), shape=(1, 3, 4, 4))
    with pytest.raises(UnsupportedOperatorError, match=r"step 'kernel0'.*aten\.cumsum"):
        compile_program(several_kernels([spec]), load_target("host"))
    wrong = fallback("aten.elu.default", '[[{"tensor":0}],{}]', net_input(1, 3, 4, 4), shape=(1, 3, 4, 5))
    with pytest.raises(UnsupportedOperatorError, match="gives"):
        compile_program(several_kernels([wrong]), load_target("host"))
