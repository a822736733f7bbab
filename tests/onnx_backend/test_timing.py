"""The engine, the light process it runs in, and tables of this backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprune.errors import ArtifactError, PipelineMismatchError, TableError
from hwprune.latency.table import LatencyTable
from hwprune.measure.backend import backend_of, pipeline_hash
from hwprune.measure.profile import profile
from hwprune.measure.runners.local import LocalRunner
from hwprune.measure.site import LocalSite
from hwprune.measure.values import CheckPool
from hwprune.onnx_backend.kernel_model import build_kernel_model, build_program_model
from hwprune.onnx_backend.runner import OnnxRunner
from hwprune.target import load_target
from tests.compile.programs import several_kernels
from tests.compile.test_kernels import residual
from tests.measure.fakes import FAST, conv

TARGET = load_target("host-onnxruntime", threads=1)
TVM = load_target("host", threads=1)


def test_kernels_and_networks_can_be_timed(tmp_path: Path) -> None:
    build_kernel_model(residual(16, 16, 6), TARGET, tmp_path / "kernel", 5)
    kernel = OnnxRunner(tmp_path / "kernel")
    assert kernel.copies == 5
    assert len(kernel.time(2, 3)) == 3 and all(s > 0 for s in kernel.time(2, 3))
    first = kernel.outputs()[0].copy()
    assert kernel.pace() > 0 and kernel.nonfinite() == 0
    kernel.time(1, 1)
    assert (kernel.outputs()[0] == first).all(), "every run writes the same result into the same buffer"
    build_program_model(several_kernels([residual(16, 16, 6)]), TARGET, tmp_path / "network")
    network = OnnxRunner(tmp_path / "network")
    assert network.copies == 1 and network.time(1, 1)[0] > 0
    assert network.outputs()[0].shape == (1, 16, 6, 6)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"weights": {}, "copies": 1}'])
def test_the_runner_needs_its_sidecar(tmp_path: Path, content: str | None) -> None:
    build_kernel_model(conv(16), TARGET, tmp_path / "kernel.onnx", 1)
    sidecar = tmp_path / "kernel.json"
    sidecar.unlink() if content is None else sidecar.write_text(content)
    with pytest.raises(ArtifactError, match=r"kernel\.json"):
        OnnxRunner(tmp_path / "kernel.onnx")


def test_kernels_reach_a_table_of_their_own(tmp_path: Path) -> None:
    specs = [conv(16, 16, 8), conv(32, 16, 8)]
    runner = LocalRunner(1, engine=backend_of(TARGET).engine)
    checker = LocalSite().checker(TARGET)
    assert isinstance(checker, CheckPool), "values of kernels can be checked for this backend"
    checker.close()
    try:
        report = profile(specs, TARGET, tmp_path, profile=FAST, runner=runner, retries=0)
        modules = set(runner.about()["modules"])
    finally:
        runner.close()
    assert not report.failures and report.measured == 2
    assert "onnxruntime" in modules
    assert not {"torch", "tvm", "tvm_ffi", "onnx", "pydantic"} & modules
    table = LatencyTable.load(tmp_path, pipeline=pipeline_hash(TARGET))
    assert table.manifest.target["backend"] == "onnxruntime"
    assert all(table.lookup(spec, untrusted=True).median > 0 for spec in specs)
    with pytest.raises(PipelineMismatchError, match="pipeline"):
        LatencyTable.load(tmp_path, pipeline=pipeline_hash(TVM))
    with pytest.raises(TableError):
        profile(specs, TVM, tmp_path, profile=FAST, retries=0)


def test_the_pipeline_hash_tells_backends_and_threads_apart() -> None:
    two = TARGET.model_copy(update={"threads": 2})
    hashes = [pipeline_hash(t) for t in (TARGET, two, TVM)]
    assert len(set(hashes)) == 3
    assert pipeline_hash(load_target("host-onnxruntime", threads=1)) == hashes[0]
