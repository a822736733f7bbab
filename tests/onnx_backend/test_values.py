"""ONNX graphs, as they ship and as they are timed, against PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.compile import compile_program
from hwprune.latency.kernel import OP_KINDS, KernelSpec
from hwprune.latency.program import Program, Source, Step
from hwprune.measure.reference import reference as torch_result
from hwprune.measure.values import arguments, compare
from hwprune.onnx_backend.export import program_model
from hwprune.onnx_backend.kernel_model import build_kernel_model
from hwprune.onnx_backend.module import compile_onnx
from hwprune.onnx_backend.session import make_session, run_session
from hwprune.onnx_backend.values import run_kernel_model
from hwprune.target import load_target
from tests.compile.programs import data, normal, op, relative_error, several_kernels, weight
from tests.compile.test_kernels import conv, depthwise, pool, residual
from tests.latency.interpreter import run
from tests.onnx_backend.kernels import KERNELS

TARGET = load_target("host-onnxruntime")


def test_every_kind_of_operator_is_tried() -> None:
    assert {o.kind for spec in KERNELS for o in spec.ops} == set(OP_KINDS)


@pytest.mark.parametrize("optimise", [True, False])
def test_kernels_equal_torch(optimise: bool) -> None:
    program = several_kernels(KERNELS)
    session = make_session(program_model(program).SerializeToString(), 1, optimise=optimise)
    inputs = [3 * normal(*shape) for shape in program.input_shapes]
    expected = run(program, *[torch.from_numpy(x) for x in inputs])
    found = run_session(session, inputs)
    errors = {
        spec.label(): relative_error(got, want.numpy())
        for spec, got, want in zip(KERNELS, found, expected, strict=True)
    }
    assert not {label: e for label, e in errors.items() if not e < 1e-5}


def test_timed_kernels_compute_what_they_should(tmp_path: Path) -> None:
    """Cut out of their neighbours, repeated, with weights in ONNX Runtime's own layout."""
    wrong: dict[str, object] = {}
    for spec in KERNELS:
        build_kernel_model(spec, TARGET, tmp_path / "kernel.onnx", 2)
        arrays = arguments(spec)
        got = run_kernel_model(tmp_path / "kernel.onnx", spec, TARGET, None, arrays)
        expected = torch_result(spec, [torch.from_numpy(a) for a in arrays]).numpy()
        verdict = compare(got, expected, 1e-5)
        if verdict.complaint or verdict.unchecked:
            wrong[spec.label()] = verdict
    assert not wrong


def chained(*specs: KernelSpec) -> Program:
    """Kernels one after the other; the second argument of a sum is the result before last."""
    parts = [several_kernels([spec]) for spec in specs]
    weights: list[np.ndarray] = []
    steps: list[Step] = []
    for number, (spec, part) in enumerate(zip(specs, parts, strict=True)):
        sources: list[Source] = []
        back = 1
        for item, source in zip(spec.inputs, part.steps[0].sources, strict=True):
            if item.role == "weight":
                sources.append(Source("weight", len(weights)))
                weights.append(part.weights[source.index])
            else:
                sources.append(Source("step", number - back) if number else Source("input", 0))
                back += 1
        steps.append(Step(f"step{number}", spec, tuple(sources)))
    return Program(
        (specs[0].inputs[0].shape,), tuple(steps), (Source("step", len(specs) - 1),), tuple(weights)
    )


NETWORK = chained(
    conv(1, 3, 14, 14, 32, 3, tail=(op("relu", 3),)),
    conv(1, 32, 14, 14, 48, 1, tail=(op("silu", 3),)),
    depthwise(1, 48, 14, 14, 3, tail=(op("clamp", 3, min=0.0, max=6.0),)),
    conv(1, 48, 14, 14, 48, 3),
    residual(48, 48, 14),
    pool("max_pool2d", (1, 48, 14, 14), 2, 2, 0),
    KernelSpec((data(1, 48, 7, 7),), (op("mean_hw", 0, keepdim=0),)),
    KernelSpec((data(1, 48), weight(10, 48), weight(10)), (op("linear", 0, 1, 2),)),
)  # fmt: skip


def test_both_backends_compute_the_same_network() -> None:
    x = normal(*NETWORK.input_shapes[0])
    (ours,) = compile_onnx(NETWORK, TARGET).run(x)
    (tvm,) = compile_program(NETWORK, load_target("host")).run(x)
    (expected,) = run(NETWORK, torch.from_numpy(x))
    assert relative_error(ours, expected.numpy()) < 1e-5
    assert relative_error(ours, tvm) < 1e-5


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_pooling_of_any_window(draw: st.DataObject) -> None:
    """torch and ONNX disagree on the last window of ``ceil_mode`` and on what it is divided by."""
    kernel, stride = draw.draw(st.integers(1, 4)), draw.draw(st.integers(1, 4))
    padding = draw.draw(st.integers(0, kernel // 2))
    height, width = (draw.draw(st.integers(max(1, kernel - padding), 11)) for _ in range(2))
    kind = draw.draw(st.sampled_from(("max_pool2d", "avg_pool2d")))
    spec = pool(
        kind, (1, 3, height, width), kernel, stride, padding, ceil=1, include=draw.draw(st.integers(0, 1))
    )
    program = several_kernels([spec])
    x = normal(*program.input_shapes[0])
    (found,) = run_session(make_session(program_model(program).SerializeToString(), 1), [x])
    (expected,) = run(program, torch.from_numpy(x))
    assert relative_error(found, expected.numpy()) < 1e-5


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Chains of up to six kernels on maps, with sums over shortcuts."""
    channels, size = draw(st.sampled_from((3, 8, 16, 20, 32))), draw(st.integers(3, 9))
    specs: list[KernelSpec] = []
    before: tuple[int, int] | None = None
    for _ in range(draw(st.integers(2, 6))):
        here = (channels, size)
        choice = draw(st.sampled_from(("conv", "depthwise", "unary", "sum", "pool", "norm", "shuffle")))
        if choice == "sum" and before == here:
            specs.append(residual(channels, channels, size))
        elif choice == "depthwise":
            specs.append(depthwise(1, channels, size, size, 3))
        elif choice == "pool" and size > 3:
            specs.append(pool("max_pool2d", (1, channels, size, size), 2, 1, 0))
            size -= 1
        elif choice == "norm":
            specs.append(
                KernelSpec((data(1, channels, size, size),), (op("layer_norm", 0, -1, -1, eps=1e-5),))
            )
        elif choice == "shuffle" and channels % 4 == 0:
            specs.append(KernelSpec((data(1, channels, size, size),), (op("channel_shuffle", 0, groups=4),)))
        elif choice == "unary":
            kind = draw(st.sampled_from(("relu", "hardswish", "sigmoid", "silu", "tanh")))
            specs.append(KernelSpec((data(1, channels, size, size),), (op(kind, 0),)))
        else:
            width = draw(st.sampled_from((4, 16, 24, 33)))
            specs.append(conv(1, channels, size, size, width, draw(st.sampled_from((1, 3)))))
            channels = width
        before = here
    return chained(*specs)


@settings(max_examples=25, deadline=None)
@given(programs())
def test_random_programs_equal_torch(program: Program) -> None:
    x = normal(*program.input_shapes[0])
    found = compile_onnx(program, TARGET).run(x)
    expected = run(program, torch.from_numpy(x))
    for got, want in zip(found, expected, strict=True):
        assert relative_error(got, want.numpy()) < 1e-4


def test_models_are_for_onnx_runtime_1_22() -> None:
    model = onnx.load_model_from_string(compile_onnx(NETWORK, TARGET).model)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    assert model.ir_version == 9
    names = {p.key: p.value for p in model.metadata_props}
    assert names["hwprune_target"] == "host-onnxruntime"
    assert all(node.domain == "" for node in model.graph.node)


def test_an_input_that_is_an_output_and_a_result_that_leaves_twice() -> None:
    spec = KernelSpec((data(1, 3, 4, 4),), (op("relu", 0),))
    step = Step("relu", spec, (Source("input", 0),))
    outputs = (Source("step", 0), Source("input", 0), Source("step", 0))
    x = normal(1, 3, 4, 4)
    found = compile_onnx(Program(((1, 3, 4, 4),), (step,), outputs, ()), TARGET).run(x)
    assert [np.array_equal(a, b) for a, b in zip(found, (x.clip(0), x, x.clip(0)), strict=True)] == [True] * 3
