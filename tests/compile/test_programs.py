"""Whole programs: run here, saved as a bundle, run in a fresh process without tvm, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwprune.compile import (
    KernelRunner,
    build_kernel_library,
    compile_program,
    load_bundle,
    pipeline_hash,
)
from hwprune.compile.layout import input_layouts
from hwprune.errors import ArtifactError, CompileError, UnsupportedOperatorError, UsageError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Program, Source, Step
from hwprune.target import load_target
from tests.compile.programs import (
    data,
    net_input,
    normal,
    op,
    reference,
    relative_error,
    single_kernel,
    weight,
)

TARGET = load_target("host")
CONV = {"dilation": (1, 1), "groups": 1, "padding": (1, 1, 1, 1), "stride": (1, 1)}


def small_program() -> Program:
    """Stem, squeeze-and-excitation, residual, two outputs (one of them used inside as well)."""
    stem = KernelSpec(
        (net_input(2, 3, 10, 10), weight(20, 3, 3, 3), weight(20)),
        (op("conv2d", 0, 1, 2, **CONV), op("relu", 3)),
    )
    again = KernelSpec(
        (data(2, 20, 10, 10), weight(20, 20, 3, 3), weight(20)),
        (op("conv2d", 0, 1, 2, **CONV), op("relu", 3)),
    )
    mean = KernelSpec((data(2, 20, 10, 10),), (op("mean_hw", 0, keepdim=1),))
    gate = KernelSpec(
        (data(2, 20, 1, 1), weight(20, 20, 1, 1), weight(20)),
        (op("conv2d", 0, 1, 2, **{**CONV, "padding": (0, 0, 0, 0)}), op("hardsigmoid", 3)),
    )
    scale = KernelSpec(
        (data(2, 20, 10, 10), data(2, 20, 1, 1), data(2, 20, 10, 10)),
        (op("mul", 0, 1), op("add", 3, 2)),
        plain_output=True,
    )
    pooled = KernelSpec((data(2, 20, 10, 10),), (op("mean_hw", 0, keepdim=0),))
    head = KernelSpec((data(2, 20), weight(7, 20), weight(7)), (op("linear", 0, 1, 2),))
    s = Source
    steps = (
        Step("stem", stem, (s("input", 0), s("weight", 0), s("weight", 1))),
        Step("again", again, (s("step", 0), s("weight", 2), s("weight", 3))),
        Step("mean", mean, (s("step", 1),)),
        Step("gate", gate, (s("step", 2), s("weight", 4), s("weight", 5))),
        Step("scale", scale, (s("step", 1), s("step", 3), s("step", 0))),
        Step("pooled", pooled, (s("step", 4),)),
        Step("head", head, (s("step", 5), s("weight", 6), s("weight", 7))),
    )
    shapes = [i.shape for step in steps for i in step.spec.inputs if i.role == "weight"]
    weights = tuple(normal(*shape) for shape in shapes)
    return Program(((2, 3, 10, 10),), steps, (s("step", 6), s("step", 4)), weights)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    program = small_program()
    module = compile_program(program, TARGET)
    folder = tmp_path_factory.mktemp("bundle") / "dist"
    module.save(folder, {"note": "test"})
    return program, module, folder


def test_program_and_bundle_equal_torch(built):
    program, module, folder = built
    x = normal(2, 3, 10, 10)
    expected = reference(program, [x])
    for runner in (module, load_bundle(folder)):
        for got, want in zip(runner.run(x), expected, strict=True):
            assert relative_error(got, want) < 1e-5


def test_a_second_run_does_not_see_the_first(built):
    program, module, _ = built
    first, second = normal(2, 3, 10, 10), normal(2, 3, 10, 10)
    kept = module.run(first)[0]
    copy = kept.copy()
    assert relative_error(module.run(second)[0], reference(program, [second])[0]) < 1e-5
    assert np.array_equal(kept, copy)
    first[...] = np.nan  # the module keeps copies of inputs, not the caller's arrays
    assert np.isfinite(module.run(second)[0]).all()


def test_bundle_runs_alone(built, tmp_path):
    program, _, folder = built
    x = normal(2, 3, 10, 10)
    np.save(tmp_path / "x.npy", x)
    outputs = [tmp_path / "y0.npy", tmp_path / "y1.npy"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(folder / "run.py"), "--repeats", "3", "--inputs",
         str(tmp_path / "x.npy"), "--output", *map(str, outputs)],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "tvm_ffi" in imported
    assert not imported & {"tvm", "torch._C", "hwprune", "safetensors"}
    result = json.loads(done.stdout)
    assert len(result["samples_ns"]) == 3
    assert result["min_ns"] <= result["median_ns"]
    for path, want in zip(outputs, reference(program, [x]), strict=True):
        assert relative_error(np.load(path), want) < 1e-5


def test_manifest_says_what_is_inside(built):
    _, _, folder = built
    manifest = load_bundle(folder).manifest
    assert manifest.pipeline == pipeline_hash(TARGET)
    assert manifest.target == TARGET
    assert [k.name for k in manifest.kernels if not k.name.startswith("repack")] == [
        "stem", "again", "mean", "gate", "scale", "pooled", "head",
    ]  # fmt: skip
    head = manifest.kernels[-1]
    assert head.flops == 2 * 2 * 20 * 7
    assert manifest.provenance == {"note": "test"}
    assert set(manifest.files) == {"model.so", "weights.safetensors", "run.py", "libtvm_runtime.so"}


@pytest.mark.parametrize("name", ["model.so", "weights.safetensors", "run.py"])
def test_tampered_bundles_are_refused(built, tmp_path, name):
    import shutil

    _, _, folder = built
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    raw = bytearray((copy / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / name).write_bytes(raw)
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        load_bundle(copy)
    if name != "run.py":
        done = subprocess.run(
            [sys.executable, str(copy / "run.py")], capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert name in done.stderr


def test_saving_replaces_bundles_and_nothing_else(built, tmp_path):
    _, module, _ = built
    module.save(tmp_path / "a", {"n": 1})
    module.save(tmp_path / "a", {"n": 2})
    assert load_bundle(tmp_path / "a").manifest.provenance == {"n": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("keep me")
    with pytest.raises(ArtifactError, match="not a bundle"):
        module.save(mine, {})
    assert (mine / "thesis.txt").read_text() == "keep me"
    with pytest.raises(ArtifactError, match=r"thesis\.txt.* cannot be written"):
        module.save(mine / "thesis.txt" / "bundle", {})


def test_missing_and_malformed_manifests(tmp_path):
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(ArtifactError, match="manifest"):
        load_bundle(tmp_path)


def test_inputs_are_checked(built):
    _, module, _ = built
    with pytest.raises(UsageError, match="input 0"):
        module.run(normal(1, 3, 10, 10))
    with pytest.raises(UsageError, match="1 inputs"):
        module.run()


def test_unsupported_operators_name_the_step():
    program = single_kernel(KernelSpec((data(1, 3, 4, 4),), (op("nosuch", 0),)))
    with pytest.raises(UnsupportedOperatorError, match=r"step 'kernel'.*nosuch"):
        compile_program(program, TARGET)
    half = KernelSpec((replace(data(1, 3, 4, 4), dtype="float16"),), (op("relu", 0),))
    with pytest.raises(UnsupportedOperatorError, match="float16"):
        compile_program(single_kernel(half), TARGET)


def test_other_kinds_of_target_are_refused():
    cuda = TARGET.model_copy(update={"kind": "cuda"})
    with pytest.raises(CompileError, match="no code generator for kind 'cuda' yet"):
        compile_program(small_program(), cuda)
    for pipeline, message in (("nosuch", "unknown pipeline 'nosuch'"), ("tvm-default", "whole models only")):
        other = TARGET.model_copy(update={"pipeline": pipeline})
        with pytest.raises(CompileError, match=message):
            compile_program(small_program(), other)


def test_wrong_programs_are_refused():
    program = small_program()
    wrong = replace(program, weights=(*program.weights[:-1], normal(8)))
    with pytest.raises(CompileError, match="step 'head'"):
        compile_program(wrong, TARGET)


def test_pipeline_hash_is_stable_and_sensitive():
    here = pipeline_hash(TARGET)
    code = (
        "import sys; from hwprune.target import load_target; from hwprune.compile import pipeline_hash;"
        "print(pipeline_hash(load_target('host'))); assert 'tvm' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert done.stdout.strip() == here
    assert len(here) == 12
    assert int(here, 16) >= 0
    cores = TARGET.model_copy(update={"tvm": {**TARGET.tvm, "num-cores": 99}, "name": "other"})
    assert pipeline_hash(cores) == here
    changes = [
        {"threads": 7},
        {"isa": "scalar"},
        {"pipeline": "tvm-default"},
        {"tvm": {"kind": "llvm", "mcpu": "x"}},
    ]
    changed = {pipeline_hash(TARGET.model_copy(update=c)) for c in changes}
    assert len(changed | {here}) == 5


def test_kernel_library_runs_the_shipped_kernel(tmp_path):
    spec = KernelSpec(
        (data(1, 32, 6, 6), weight(48, 32, 3, 3), weight(48), data(1, 48, 6, 6)),
        (op("conv2d", 0, 1, 2, **CONV), op("add", 4, 3), op("relu", 5)),
    )
    library = build_kernel_library(spec, TARGET, tmp_path / "k.so", copies=3)
    assert library.copies == 3
    assert len(library.inputs) == 2
    assert len(library.weights) == 6
    runner = KernelRunner(tmp_path / "k.so")
    samples = runner.time(number=2, repeat=4)
    assert len(samples) == 4
    assert min(samples) > 0
    # The runner fills every argument with one block of numbers: the result is known.
    block = (0.05 * np.random.default_rng(0).standard_normal(4096)).astype(np.float32)
    layouts = input_layouts(spec, TARGET)
    filled = [np.resize(block, layout.shape) for layout in layouts]
    logical = []
    for item, layout, array in zip(spec.inputs, layouts, filled, strict=True):
        # Undo the packing by packing the positions of a logical array.
        places = layout.pack(np.arange(1, 1 + np.prod(item.shape), dtype=np.float32).reshape(item.shape))
        flat = np.zeros(int(np.prod(item.shape)) + 1)
        flat[places.reshape(-1).astype(int)] = array.reshape(-1)
        logical.append(flat[1:].reshape(item.shape))
    program = Program(
        (spec.inputs[0].shape, spec.inputs[3].shape),
        (
            Step(
                "k", spec, (Source("input", 0), Source("weight", 0), Source("weight", 1), Source("input", 1))
            ),
        ),
        (Source("step", 0),),
        (logical[1], logical[2]),
    )
    (expected,) = reference(program, [logical[0], logical[3]])
    packed = runner.output()
    n, blocks, h, w, lanes = packed.shape
    got = packed.transpose(0, 1, 4, 2, 3).reshape(n, blocks * lanes, h, w)[:, :48]
    assert relative_error(got, expected) < 1e-5


def test_runner_needs_its_sidecar(tmp_path):
    with pytest.raises(ArtifactError, match=r"nothing\.json"):
        KernelRunner(tmp_path / "nothing.so")


def test_importing_the_package_does_not_import_tvm():
    code = (
        "import sys, hwprune.compile, hwprune.compile.kernel_runner;"
        "assert not {'tvm', 'torch'} & set(sys.modules), 'too much'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path.cwd())


def test_running_with_threads_uses_them_and_leaves_the_process_its_cores(tmp_path):
    """TVM's pool takes half of the cores, and binds whoever calls it and all processes started later."""
    code = (
        "import os; from pathlib import Path\n"
        "from hwprune.compile import compile_program, load_bundle\n"
        "from hwprune.target import load_target\n"
        "from tests.compile.test_programs import normal, small_program\n"
        "before = os.sched_getaffinity(0)\n"
        "target = load_target('host', threads=min(2, len(before)))\n"
        "module = compile_program(small_program(), target)\n"
        "module.run(normal(2, 3, 10, 10))\n"
        f"module.save(Path({str(tmp_path / 'dist')!r}), {{}})\n"
        f"load_bundle(Path({str(tmp_path / 'dist')!r})).run(normal(2, 3, 10, 10))\n"
        "assert os.sched_getaffinity(0) == before, (before, os.sched_getaffinity(0))\n"
        "import tvm_ffi\n"
        "assert len(before) < 2 or tvm_ffi.get_global_func('runtime.NumThreads')() == 2\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TVM_")}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    if len(os.sched_getaffinity(0)) > 1:
        environment["TVM_NUM_THREADS"] = "1"
        done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment)
        assert "2 threads are asked for, but TVM's thread pool has 1" in done.stderr
