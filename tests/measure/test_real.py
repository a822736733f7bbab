"""The whole way with real kernels: build pool, library, timing worker, table, bundle."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwprune.compile import compile_program, pipeline_hash
from hwprune.latency.program import Program, Source, Step
from hwprune.latency.table import LatencyTable
from hwprune.measure.compare import compare
from hwprune.measure.contenders import bundle_contender
from hwprune.measure.profile import profile
from hwprune.measure.runners.local import LocalRunner
from hwprune.target import load_target
from tests.measure.fakes import FAST, conv


@pytest.fixture(scope="module")
def target():
    return load_target("host", threads=1)


def test_real_kernels_reach_the_table(tmp_path: Path, target):  # type: ignore[no-untyped-def]
    specs = [conv(16, 16, 8), conv(32, 16, 8)]
    runner = LocalRunner(1)
    try:
        care = replace(FAST, check_values=True)
        report = profile(specs, target, tmp_path, profile=care, runner=runner, retries=0)
        modules = set(runner.about()["modules"])
    finally:
        runner.close()
    assert not report.failures
    assert report.measured == report.checked == 2
    assert "tvm_ffi" in modules
    assert not {"torch", "tvm", "pydantic"} & modules
    table = LatencyTable.load(tmp_path, pipeline=pipeline_hash(target))
    for spec in specs:
        row = table.lookup(spec, untrusted=True)
        # between a thousandth and a thousandfold of 0.3 to 0.6 MFLOP at 100 GFLOP/s
        assert 3 < row.minimum <= row.median < 6e6
    assert not list(tmp_path.glob(".build-*"))


@pytest.mark.usefixtures("loaded_once")
def test_a_bundle_takes_part_in_a_comparison(tmp_path: Path, target):  # type: ignore[no-untyped-def]
    spec = conv(16, 3, 8)
    plain = type(spec)(
        (type(spec.inputs[0])((1, 3, 8, 8), "input"), spec.inputs[1]), spec.ops, plain_output=True
    )
    weight = np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype(np.float32)
    step = Step("conv", plain, (Source("input", 0), Source("weight", 0)))
    program = Program(((1, 3, 8, 8),), (step,), (Source("step", 0),), (weight,))
    for name in ("one", "two"):
        compile_program(program, target).save(tmp_path / name, {})
    inputs = [np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)]
    contenders = {name: bundle_contender(tmp_path / name) for name in ("one", "two")}
    contenders["gone"] = bundle_contender(tmp_path / "gone")
    result = compare(contenders, inputs, profile=FAST)
    assert set(result.failed) == {"gone"}
    assert "manifest.json" in result.failed["gone"]
    assert result["two"].max_rel_error == 0.0
    assert result["two"].summary.n == FAST.rounds * FAST.samples_per_round
