"""What this backend does not do, and what is said about it."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwprune.compile import compile_program
from hwprune.compile import pipeline_hash as tvm_pipeline_hash
from hwprune.delivery import compile_model
from hwprune.errors import (
    CompileError,
    MissingExtraError,
    TargetError,
    UnsupportedOperatorError,
    UsageError,
)
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelInput, KernelSpec
from hwprune.latency.program import Program, Source, Step
from hwprune.measure.backend import pipeline_hash
from hwprune.measure.search import search
from hwprune.onnx_backend import pipeline
from hwprune.onnx_backend.kernel_model import build_kernel_model
from hwprune.onnx_backend.module import compile_onnx
from hwprune.onnx_backend.session import make_session
from hwprune.target import load_target
from tests.compile.programs import data, net_input, op, several_kernels, weight
from tests.compile.test_kernels import conv
from tests.compile.test_operators import fallback

TARGET = load_target("host-onnxruntime", threads=1)
TVM = load_target("host", threads=1)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find, version = importlib.util.find_spec, pipeline.version

    def absent(package: str) -> str:
        if package == missing:
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    monkeypatch.setattr(pipeline, "version", absent)
    with pytest.raises(MissingExtraError, match=rf"^{missing} (is )?not installed") as caught:
        build_kernel_model(conv(1, 8, 4, 4, 8, 1), TARGET, tmp_path / "k", 1)
    assert "hwprune[onnx]" in str(caught.value)
    with pytest.raises(MissingExtraError, match=missing):
        pipeline_hash(TARGET)
    assert pipeline_hash(TVM), "the other backend needs neither"


def test_operators_without_an_onnx_form_name_the_step() -> None:
    spec = fallback(
        "aten.special_bessel_j0.default", '[[{"tensor":0}],{}]', net_input(1, 3, 4, 4), shape=(1, 3, 4, 4)
    )
    with pytest.raises(UnsupportedOperatorError, match=r"step 'kernel0'.*aten\.special_bessel_j0") as caught:
        compile_onnx(several_kernels([spec]), TARGET)
    assert "tvm" in str(caught.value)
    wrong = fallback("aten.elu.default", '[[{"tensor":0}],{}]', net_input(1, 3, 4, 4), shape=(1, 3, 4, 5))
    with pytest.raises(UnsupportedOperatorError, match=r"gives \(1, 3, 4, 4\)"):
        compile_onnx(several_kernels([wrong]), TARGET)


def test_an_operator_that_tvm_lacks_may_have_an_onnx_form() -> None:
    spec = fallback("aten.cumsum.default", '[[{"tensor":0},1],{}]', net_input(1, 3, 4, 4), shape=(1, 3, 4, 4))
    x = torch.randn(1, 3, 4, 4)
    (found,) = compile_onnx(several_kernels([spec]), TARGET).run(x.numpy())
    assert np.abs(found - x.cumsum(1).numpy()).max() < 1e-5


def test_other_dtypes_are_refused() -> None:
    spec = KernelSpec((KernelInput((1, 4, 2, 2), "data", "int8"),), (op("relu", 0),))
    with pytest.raises(UnsupportedOperatorError, match="int8"):
        compile_onnx(several_kernels([spec]), TARGET)


def test_nothing_is_searched_or_tuned(tmp_path: Path) -> None:
    network, x = nn.Conv2d(3, 8, 1).eval(), torch.randn(1, 3, 4, 4)
    with pytest.raises(UsageError, match="ONNX Runtime chooses"):
        compile_model(network, (x,), TARGET, search=True)
    with pytest.raises(UsageError, match="ONNX Runtime chooses"):
        compile_model(network, (x,), TARGET, tune=1.0)
    with pytest.raises(UsageError, match="ONNX Runtime chooses"):
        search([conv(1, 8, 4, 4, 8, 1)], TARGET, tmp_path)
    with pytest.raises(UsageError, match=r"choices\.json"):
        build_kernel_model(conv(1, 8, 4, 4, 8, 1), TARGET, tmp_path / "k", 1, Choice("direct"))


def test_a_target_is_built_by_its_own_backend(tmp_path: Path) -> None:
    program = several_kernels([conv(1, 8, 4, 4, 8, 1)])
    with pytest.raises(CompileError, match="backend 'onnxruntime', not for TVM"):
        compile_program(program, TARGET)
    with pytest.raises(CompileError, match="backend 'onnxruntime', not for TVM"):
        tvm_pipeline_hash(TARGET)
    with pytest.raises(CompileError, match="not built by ONNX Runtime"):
        compile_onnx(program, TVM)
    with pytest.raises(CompileError, match="onnx-graph"):
        compile_onnx(program, TARGET.model_copy(update={"pipeline": "cpu-packed"}))
    with pytest.raises(CompileError, match="CPUs only"):
        compile_onnx(program, TARGET.model_copy(update={"kind": "cuda"}))


def test_wrong_programs_are_refused() -> None:
    program = several_kernels([conv(1, 8, 4, 4, 8, 1)])
    short = Program(((1, 8, 4, 5),), program.steps, program.outputs, program.weights)
    with pytest.raises(CompileError, match=r"step 'kernel0'.*\(1, 8, 4, 5\)"):
        compile_onnx(short, TARGET)


def test_two_gigabytes_are_the_limit() -> None:
    shape = (30_000, 20_000)
    spec = KernelSpec((data(1, shape[1]), weight(*shape)), (op("linear", 0, 1, -1),))
    step = Step("head", spec, (Source("input", 0), Source("weight", 0)))
    hollow = np.broadcast_to(np.float32(0), shape)
    with pytest.raises(CompileError, match=r"2\.4 GB"):
        compile_onnx(Program(((1, shape[1]),), (step,), (Source("step", 0),), (hollow,)), TARGET)


def test_what_onnx_runtime_refuses_is_told() -> None:
    with pytest.raises(CompileError, match=r"ONNX Runtime .* cannot load the model"):
        make_session(b"not a model", 1)


def test_targets_say_their_backend(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('kind = "cpu"\nbackend = "onnxruntime"\nisa = "scalar"\n')
    mine = load_target(path)
    assert (mine.backend, mine.pipeline, mine.tvm) == ("onnxruntime", "onnx-graph", {})
    path.write_text('kind = "cpu"\nbackend = "onnx"\nisa = "scalar"\n')
    with pytest.raises(TargetError, match="backend"):
        load_target(path)
    path.write_text('kind = "cpu"\nisa = "scalar"\n')
    with pytest.raises(TargetError, match="'tvm'"):
        load_target(path)
    assert TVM.backend == "tvm" and TVM.tvm["kind"] == "llvm"
