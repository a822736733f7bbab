"""TVM's default pipeline computes the same, is told apart, and unknown pipelines are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwprune.benchmark import bench_bundle
from hwprune.compile import build_kernel_library, load_bundle, pipeline_hash
from hwprune.delivery import compile_model
from hwprune.errors import CompileError, TargetError
from hwprune.measure.compare import max_relative_error
from hwprune.target import Target, load_target
from tests.measure.fakes import FAST, conv

HOST = load_target("host", threads=1)
DEFAULT = HOST.model_copy(update={"pipeline": "tvm-default"})


class Small(nn.Module):
    """Convolution, BatchNorm that does something, residual sum, head; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.next = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)
        for value in (self.norm.running_mean, self.norm.bias.data, self.norm.weight.data):
            nn.init.uniform_(value, 0.5, 1.5)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.norm(self.stem(x)))
        z = self.next(y) + y
        return self.head(z.mean((2, 3))), z


@pytest.fixture(scope="module")
def small():  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model, x = Small().eval(), torch.randn(2, 3, 6, 6)
    module, error = compile_model(model, (x,), DEFAULT)
    return model, module, error


def test_default_pipeline_equals_torch_and_bundles(small, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, module, error = small
    assert error < 1e-5
    assert module.pipeline == pipeline_hash(DEFAULT) != pipeline_hash(HOST)
    module.save(tmp_path / "dist", {})
    bundle = load_bundle(tmp_path / "dist")
    assert bundle.manifest.target.pipeline == "tvm-default"
    assert [k.label for k in bundle.manifest.kernels].count("relax.nn.conv2d") == 2
    x = torch.randn(2, 3, 6, 6)
    expected = [t.detach().double().numpy() for t in model(x)]
    assert [tuple(o.shape) for o in bundle.manifest.outputs] == [e.shape for e in expected]
    assert max_relative_error(bundle.run(x.numpy()), expected) < 1e-5


def test_default_pipeline_is_not_our_code() -> None:
    """Its hash does not follow our generator, and its name never labels our kernels."""
    assert pipeline_hash(DEFAULT) != pipeline_hash(DEFAULT.model_copy(update={"threads": 2}))
    with pytest.raises(CompileError, match="whole models only"):
        build_kernel_library(conv(16), DEFAULT, Path("never.so"), 1)
    assert not Path("never.so").exists()


@pytest.mark.parametrize("name", ["cpu-pakced", "cuda"])
def test_unknown_pipelines_are_refused_with_the_list(name: str, tmp_path: Path) -> None:
    target = HOST.model_copy(update={"pipeline": name})
    with pytest.raises(CompileError, match=name) as caught:
        compile_model(Small().eval(), (torch.randn(2, 3, 6, 6),), target)
    assert '"cpu-packed", "tvm-default"' in str(caught.value)
    with pytest.raises(CompileError, match=name):
        build_kernel_library(conv(16), target, tmp_path / "never.so", 1)


@pytest.fixture
def old_machine(monkeypatch: pytest.MonkeyPatch) -> Target:
    """A machine without any vector unit that a target could ask for."""
    target = load_target("x86-64-avx512")
    monkeypatch.setattr("hwprune.target.cpu_flags", lambda: {"sse2"})
    return target


def test_foreign_instructions_are_refused_before_work(
    old_machine: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwprune.delivery.capture", lambda *_: pytest.fail("captured before the refusal"))
    with pytest.raises(TargetError, match="avx512"):
        compile_model(nn.Conv2d(3, 8, 1).eval(), (torch.randn(1, 3, 4, 4),), old_machine)


def test_foreign_bundles_are_refused_before_timing(
    small,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old_machine: Target,  # type: ignore[no-untyped-def]
) -> None:
    from dataclasses import replace

    _, module, _ = small
    replace(module, target=old_machine).save(tmp_path / "dist", {})
    monkeypatch.setattr("hwprune.benchmark.compare", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(TargetError, match="avx512"):
        bench_bundle(tmp_path / "dist", profile=FAST)
    with pytest.raises(TargetError, match="avx512"):
        load_bundle(tmp_path / "dist").run(np.zeros((2, 3, 6, 6), np.float32))
