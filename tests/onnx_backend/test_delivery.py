"""From a model to a measured plan, a bundle and a comparison, for those who deploy with ONNX Runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hwprune import api
from hwprune.benchmark import PRUNED, bench_bundle
from hwprune.delivery import compile_model
from hwprune.errors import ArtifactError, UsageError
from hwprune.latency.table import LatencyTable
from hwprune.measure.peers import onnx_runtime
from hwprune.onnx_backend.bundle import OnnxBundle, open_bundle
from hwprune.target import load_target
from tests.measure.fakes import FAST
from tests.small import SHAPE, Small

TARGET = load_target("host-onnxruntime", threads=1)
X = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("onnx") / "bundle"
    module, error = compile_model(Small().eval(), (X,), TARGET)
    assert error < 1e-5
    assert len(module.kernels) == 5
    module.save(directory, {"by": "test"})
    return directory


@pytest.mark.usefixtures("loaded_once")
def test_a_plan_is_made_of_kernels_timed_by_onnx_runtime(tmp_path: Path) -> None:
    planned = api.plan(Small(), X, TARGET, "90%", profile="quick", checks=0, tables=tmp_path)
    assert planned.plan.target == "host-onnxruntime"
    table = LatencyTable.load(planned.workbench.directory)
    assert table.manifest.target["backend"] == "onnxruntime"
    assert table.manifest.pipeline == planned.plan.pipeline
    assert planned.workbench.directory.is_relative_to(tmp_path / "host-onnxruntime")
    assert planned.plan.predicted_ns <= planned.plan.budget_ns
    model = planned.subject.cut(planned.plan, planned).model.eval()
    module = api.compile(model, X, TARGET)
    assert module.pipeline == planned.plan.pipeline
    with torch.no_grad():
        expected = model(X).numpy()
    assert np.abs(module.run(X.numpy())[0] - expected).max() < 1e-5


def test_a_bundle_is_an_onnx_file_that_runs_alone(bundle: Path, tmp_path: Path) -> None:
    assert {p.name for p in bundle.iterdir()} == {"manifest.json", "model.onnx", "run.py"}
    onnx.checker.check_model(bundle / "model.onnx", full_check=True)
    np.save(tmp_path / "x.npy", X.numpy())
    command = [sys.executable, str(bundle / "run.py"), "--repeats", "3"]
    command += ["--inputs", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PATH": ""}, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["samples_ns"]) == 3 and result["unit"] == "ns"
    found = open_bundle(bundle)
    assert isinstance(found, OnnxBundle)
    assert result["pipeline"] == found.manifest.pipeline
    (expected,) = found.run(X.numpy())
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)
    with torch.no_grad():
        assert np.abs(expected - Small().eval()(X).numpy()).max() < 1e-5


def test_changed_bundles_and_wrong_inputs_are_refused(bundle: Path, tmp_path: Path) -> None:
    found = open_bundle(bundle)
    with pytest.raises(UsageError, match="input 0"):
        found.run(X.numpy().astype(np.float64))
    copy = tmp_path / "copy"
    compile_model(Small().eval(), (X,), TARGET, check=False)[0].save(copy, {})
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match=r"model\.onnx does not match"):
        open_bundle(copy)
    done = subprocess.run([sys.executable, str(copy / "run.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "model.onnx does not match" in done.stderr
    (copy / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing"):
        open_bundle(copy)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="not a bundle"):
        compile_model(Small().eval(), (X,), TARGET, check=False)[0].save(other, {})


@pytest.mark.usefixtures("loaded_once")
def test_bundles_of_both_backends_are_compared(bundle: Path, tmp_path: Path) -> None:
    tvm = tmp_path / "tvm"
    compile_model(Small().eval(), (X,), load_target("host", threads=1))[0].save(tvm, {})
    model = Small().eval()
    comparison, absent = bench_bundle(bundle, dense=tvm, models={"pruned": model}, inputs=[X], profile=FAST)
    assert not absent
    names = {s.name for s in comparison.standings}
    assert names == {PRUNED, "dense (TVM)", "PyTorch eager pruned", "TVM pruned"}
    assert all(s.max_rel_error < 1e-5 for s in comparison.standings)
    comparison, absent = bench_bundle(tvm, dense=bundle, models={"pruned": model}, inputs=[X], profile=FAST)
    assert not absent
    names = {s.name for s in comparison.standings}
    assert names == {PRUNED, "dense (ONNX Runtime)", "PyTorch eager pruned", "ONNX Runtime pruned"}


def test_onnx_runtime_is_a_peer_by_the_same_exporter(tmp_path: Path) -> None:
    model = Small().eval()
    onnx_runtime(model, [X], tmp_path / "ours")
    assert onnx.load(tmp_path / "ours.onnx").producer_name == "hwprune"

    class Doubled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.double() * 2).float()

    onnx_runtime(Doubled(), [X], tmp_path / "torchs")
    assert onnx.load(tmp_path / "torchs.onnx").producer_name == "pytorch"
