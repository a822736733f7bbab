"""Kernels for aarch64: the same rules, compiled and linked here, run by emulation."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from hwprune.compile import compile_program, link, load_bundle
from hwprune.compile.link import host_architecture, linker_command
from hwprune.errors import CompileError, TargetError
from hwprune.measure.profile import profile
from hwprune.target import load_target, require_runnable
from tests.compile.aarch64_kernels import build_kernels, run_kernel
from tests.compile.programs import relative_error, several_kernels
from tests.compile.test_kernels import CONVOLUTIONS, OTHERS, conv, depthwise, linear, residual

A72 = load_target("aarch64-cortex-a72")
PAIRS = A72.model_copy(update={"isa": "neon8"})
#: A target of another architecture than this machine's.
FOREIGN = "aarch64-generic" if host_architecture() != "aarch64" else "x86-64-avx2"
CONV = replace(conv(1, 8, 6, 6, 12, 3), plain_output=True)


@pytest.mark.parametrize(
    ("target", "specs"),
    [
        pytest.param(A72, CONVOLUTIONS + OTHERS, id="cortex-a72"),
        pytest.param(PAIRS, CONVOLUTIONS[::2] + OTHERS[::3], id="blocks-of-8"),
        pytest.param(load_target("aarch64-generic"), CONVOLUTIONS[::6] + OTHERS[::7], id="generic"),
    ],
)
def test_kernels_equal_torch_and_stay_inside_their_buffers(tmp_path, target, specs):
    emulator = build_kernels(specs, target, tmp_path / "kernels.so")
    errors = {
        (spec.label(), at_end): run_kernel(emulator, spec, target, at_end=at_end)[0]
        for spec in specs
        for at_end in (False, True)
    }
    assert not {where: e for where, e in errors.items() if not e < 1e-4}


def test_convolutions_are_vector_code(tmp_path):
    """Aligned layers need exactly one vector multiply-add per four multiplications."""
    expected = {
        conv(1, 32, 12, 10, 64, 3): 12 * 10 * 32 * 64 * 9 // 4,
        conv(1, 64, 7, 7, 80, 1, bias=False): 49 * 64 * 80 // 4,
        residual(32, 48, 10): 100 * 32 * 48 * 9 // 4,
        depthwise(1, 32, 14, 14, 3): 14 * 14 * 32 * 9 // 4,
        linear(1, 64, 128): 64 * 128 // 4,
    }
    emulator = build_kernels(list(expected), A72, tmp_path / "kernels.so")
    for spec, multiply_adds in expected.items():
        _, counts = run_kernel(emulator, spec, A72, count=True)
        assert counts is not None
        assert counts.multiply_adds == multiply_adds, spec.label()
        assert multiply_adds > 0.3 * counts.total, spec.label()


def test_a_missing_linker_is_named(monkeypatch):
    monkeypatch.setattr(link.shutil, "which", lambda name: None)
    monkeypatch.setattr(link.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompileError, match=r"riscv64[\s\S]*binutils-riscv64-[\s\S]*hwprune\[cross\]"):
        linker_command.__wrapped__("riscv64")
    with pytest.raises(CompileError, match="gcc or clang"):
        linker_command.__wrapped__(host_architecture())


def test_a_cross_binutils_is_found(monkeypatch):
    monkeypatch.setattr(link.shutil, "which", {"riscv64-linux-gnu-ld": "/cross/ld", "cc": "/native/cc"}.get)
    assert linker_command.__wrapped__("riscv64") == ("/cross/ld",)


@pytest.fixture(scope="module")
def foreign_bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign") / "bundle"
    compile_program(several_kernels([CONV]), load_target(FOREIGN)).save(folder, {})
    return folder


def run_here(folder, *arguments):
    command = [sys.executable, str(folder / "run.py"), "--repeats", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_foreign_bundle_holds_no_runtime_of_this_machine(foreign_bundle):
    manifest = load_bundle(foreign_bundle).manifest
    assert not (foreign_bundle / "libtvm_runtime.so").exists()
    assert manifest.architecture == FOREIGN.split("-")[0].replace("x86", "x86_64")
    assert manifest.runtime == f"apache-tvm=={manifest.versions['tvm']}"
    (machine,) = struct.unpack_from("<H", (foreign_bundle / "model.so").read_bytes(), 18)
    assert machine == {"aarch64": 183, "x86_64": 62}[manifest.architecture]


def test_a_foreign_bundle_is_refused_here(foreign_bundle):
    bundle = load_bundle(foreign_bundle)
    with pytest.raises(TargetError, match="which this machine lacks"):
        bundle.run(np.zeros(bundle.manifest.inputs[0].shape, np.float32))
    done = run_here(foreign_bundle)
    assert done.returncode != 0
    assert f"this bundle is for {bundle.manifest.architecture}" in done.stderr
    assert "Traceback" not in done.stderr


def test_both_block_sizes_are_refused_without_neon():
    if host_architecture() == "aarch64":
        return
    for target in (A72, PAIRS):
        with pytest.raises(TargetError, match="asimd"):
            require_runnable(target)


def test_on_its_device_a_foreign_bundle_uses_the_installed_runtime(tmp_path):
    """Made into a bundle without runtime, as one that was compiled elsewhere arrives."""
    module = compile_program(several_kernels([CONV]), load_target("host"))
    folder = tmp_path / "bundle"
    module.save(folder, {})
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["runtime"] == "bundled"
    manifest["runtime"] = f"apache-tvm=={manifest['versions']['tvm']}"
    del manifest["files"]["libtvm_runtime.so"]
    (folder / "libtvm_runtime.so").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    x = np.random.default_rng(3).standard_normal((1, 8, 6, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    done = run_here(folder, "--inputs", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy"))
    assert done.returncode == 0, done.stderr
    assert relative_error(np.load(tmp_path / "y.npy"), module.run(x)[0]) == 0.0
    shutil.rmtree(folder)


def test_profiling_without_a_runner_says_so(tmp_path):
    with pytest.raises(TargetError, match=r"its runner is 'rpc'[\s\S]*--rpc HOST:PORT"):
        profile([CONV], A72, tmp_path / "table")
    assert not (tmp_path / "table").exists()
