"""Winograd convolution against float64, and which layers are offered it."""

from __future__ import annotations

import numpy as np
import pytest

from hwprune.compile import compile_program
from hwprune.compile.choice import choices_for
from hwprune.compile.layout import conv_plan, input_layouts
from hwprune.compile.shapes import infer_shapes
from hwprune.compile.winograd import WINOGRAD, winograd_choices
from hwprune.compile.winograd_matrices import transforms
from hwprune.errors import CompileError
from hwprune.latency.choice import Choice, ChoiceTable, Searched
from hwprune.latency.kernel import KernelSpec
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
from tests.compile.test_kernels import conv, residual

TARGET = load_target("host")
RELU = (op("relu", 3),)


@pytest.mark.parametrize("m", [2, 4])
def test_transforms_compute_a_correlation(m):
    at, g, bt = transforms(m)
    random = np.random.default_rng(m)
    d, f = random.standard_normal(m + 2), random.standard_normal(3)
    assert np.allclose(at @ ((g @ f) * (bt @ d)), np.correlate(d, f, "valid"), atol=1e-12)


def test_f4_is_the_published_algorithm():
    """Input transform of F(4, 3) as in Lavin and Gray, section 4.3."""
    _, _, bt = transforms(4)
    assert bt.tolist() == [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]


def errors(pairs: list[tuple[KernelSpec, Choice]], target=TARGET) -> list[float]:
    """Relative errors of kernels built as the choices say."""
    program = several_kernels([spec for spec, _ in pairs])
    table = ChoiceTable({spec.digest(): Searched("", choice) for spec, choice in pairs})
    module = compile_program(program, target, table)
    assert [k.choice for k in module.kernels if k.name.startswith("kernel")] == [c.label() for _, c in pairs]
    inputs = [normal(*shape) for shape in program.input_shapes]
    return [
        relative_error(got, want)
        for got, want in zip(module.run(*inputs), reference(program, inputs), strict=True)
    ]


def offered(spec: KernelSpec, target=TARGET) -> list[Choice]:
    return [choice for choice in choices_for(spec, target) if choice.rule == WINOGRAD]


ODD = [
    conv(1, 64, 14, 14, 64, 3, tail=RELU),
    conv(2, 40, 13, 11, 48, 3, tail=(op("clamp", 3, min=0.0, max=6.0),)),
    conv(1, 33, 9, 17, 80, 3, bias=False),
    conv(1, 32, 8, 8, 32, 3, pads=(0, 1, 2, 1)),
    conv(1, 64, 7, 7, 96, 3, p=0),
    residual(64, 64, 12),
    KernelSpec(conv(1, 32, 10, 10, 36, 3).inputs, (*conv(1, 32, 10, 10, 36, 3).ops, op("silu", 3)), True),
]


def test_offered_forms_are_right():
    pairs = [(spec, choice) for spec in ODD for choice in offered(spec)]
    assert {choice.number("m") for _, choice in pairs} == {2, 4}
    # One program per round: a program holds one form of each kernel.
    for number in range(2):
        some = [(spec, offered(spec)[(number * 3 + i) % len(offered(spec))]) for i, spec in enumerate(ODD)]
        assert max(errors(some)) < 1e-4


def test_realistic_sizes_stay_within_a_thousandth():
    """Sums over many channels: the error that counts for the choice of the algorithm."""
    specs = [conv(1, 64, 56, 56, 64, 3), conv(1, 256, 14, 14, 256, 3), conv(1, 512, 14, 14, 512, 3)]
    assert max(errors([(s, next(c for c in offered(s) if c.number("m") == 4)) for s in specs])) < 1e-4


def test_narrower_vectors_and_two_threads():
    spec = conv(1, 48, 15, 15, 64, 3, tail=RELU)
    targets = [TARGET.model_copy(update={"threads": 2})]
    if TARGET.isa in ("avx2", "avx512"):
        targets.append(load_target("x86-64-avx2"))
    for target in targets:
        assert max(errors([(spec, offered(spec, target)[0])], target)) < 1e-4


def test_only_layers_that_can_gain_are_offered_it():
    strided = conv(1, 64, 16, 16, 64, 3, s=2)
    dilated = conv(1, 64, 16, 16, 64, 3, d=2)
    pointwise = conv(1, 64, 16, 16, 64, 1)
    grouped = conv(1, 64, 16, 16, 64, 3, g=2)
    first = conv(1, 3, 16, 16, 64, 3, source=net_input)
    thin = conv(1, 8, 16, 16, 64, 3)
    for spec in (strided, dilated, pointwise, grouped, first, thin):
        assert offered(spec) == []
    plain = conv(1, 64, 16, 16, 64, 3)
    assert offered(plain)
    assert offered(plain, TARGET.model_copy(update={"winograd": False})) == []
    assert choices_for(plain, TARGET)[0].rule == "direct"


def test_tiles_divide_their_chunks():
    for size, channels in ((56, 64), (28, 128), (14, 256), (7, 512), (112, 128), (224, 64), (13, 40)):
        spec = conv(1, channels, size, size, channels, 3)
        geometry, _ = conv_plan(spec, spec.ops[0], infer_shapes(spec), TARGET)
        for choice in winograd_choices(geometry, 32):
            n = dict(choice.numbers)
            assert n["chunk"] % n["rows"] == 0
            assert -(-size // n["m"]) % n["cols"] == 0
            assert n["block_tile"] * n["rows"] * n["cols"] + n["block_tile"] < 32


def test_numbers_that_do_not_fit_are_refused():
    spec = conv(1, 64, 16, 16, 64, 3)
    with pytest.raises(CompileError, match="does not fit"):
        input_layouts(spec, TARGET, Choice.of(WINOGRAD, m=4, chunk=4, block_tile=3, rows=1, cols=4))
    with pytest.raises(CompileError, match="does not fit"):
        input_layouts(spec, TARGET, Choice.of(WINOGRAD, m=3, chunk=4, block_tile=2, rows=1, cols=4))
    with pytest.raises(CompileError, match="no tile"):
        input_layouts(spec, TARGET, Choice.of("direct", block_tile=0))


def test_forms_of_one_kernel_have_different_weights_but_one_result():
    """All direct forms agree with each other to rounding."""
    spec = KernelSpec(
        (data(1, 64, 14, 14), weight(96, 64, 3, 3), weight(96)),
        conv(1, 64, 14, 14, 96, 3).ops,
    )
    direct = [choice for choice in choices_for(spec, TARGET) if choice.rule == "direct"]
    assert len(direct) >= 4
    assert len({input_layouts(spec, TARGET, choice)[1].shape for choice in direct}) > 1
    for choice in direct[1::4]:
        assert max(errors([(spec, choice)])) < 1e-5
