"""Target files: what they may say, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwprune import target as target_module
from hwprune.errors import TargetError
from hwprune.target import ISA, available, load_target, require_runnable

GOOD = """
format = 1
kind = "cpu"
isa = "avx2"
[tvm]
kind = "llvm"
[alignment.float32]
conv2d = 8
"""

AVX512 = {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx2", "fma"}


def write(directory: Path, text: str, name: str = "device.toml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", available())
def test_shipped_targets_load(name: str):
    target = load_target(name)
    assert target.name == name
    assert target.description
    assert target.isa in ISA, "'auto' must be resolved"
    assert target.backend == "onnxruntime" or target.tvm["kind"] == "llvm"
    assert target.multiple("conv2d") == target.simd_lanes


def test_the_targets_that_the_readme_names_are_shipped():
    assert {"host", "x86-64-avx2", "x86-64-avx512"} <= set(available())


@pytest.mark.parametrize(
    ("flags", "isa", "lanes"),
    [(AVX512, "avx512", 16), ({"avx2", "fma"}, "avx2", 8), ({"asimd"}, "neon", 4), (set[str](), "scalar", 1)],
)
def test_host_is_what_the_processor_says(
    flags: set[str], isa: str, lanes: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(target_module, "cpu_flags", lambda: flags)
    host = load_target("host")
    assert (host.isa, host.simd_lanes) == (isa, lanes)
    assert [host.multiple(kind) for kind in ("conv2d", "depthwise", "linear")] == [lanes] * 3
    assert host.multiple("conv2d", "float16") == 1, "the file is silent"
    assert host.tvm["num-cores"] >= 1
    require_runnable(host)


def test_the_file_wins_over_what_is_detected(tmp_path: Path):
    text = (
        'kind = "cpu"\nisa = "auto"\n[tvm]\nkind = "llvm"\nmcpu = "znver4"\n[alignment.float32]\nconv2d = 3\n'
    )
    target = load_target(write(tmp_path, text))
    assert target.tvm["mcpu"] == "znver4"
    assert target.multiple("conv2d") == 3
    assert target.multiple("depthwise") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("isa", "issa"), r"unknown key 'issa' \(nearest valid: 'isa'\)"),
        ("thread = 2\n" + GOOD, r"unknown key 'thread' \(nearest valid: 'threads'\)"),
        (
            GOOD.replace("conv2d", "conv2"),
            r"unknown key 'alignment\.float32\.conv2' \(nearest valid: 'conv2d'\)",
        ),
        (GOOD.replace('"cpu"', '"gpu"'), r"'kind': .*'cpu'.*'cuda'"),
        (GOOD.replace('kind = "cpu"\n', "", 1), r"'kind': field required"),
        (GOOD.replace("= 8", "= 0"), r"'alignment\.float32\.conv2d': .*greater than or equal to 1"),
        ("threads = 0\n" + GOOD, r"'threads': .*greater than or equal to 1"),
        (GOOD.replace("format = 1", "format = 2"), r"'format'"),
        (GOOD.replace("avx2", "avx3"), r"unknown isa 'avx3'"),
        ("kind = cpu", r"is not valid TOML: .*line 1"),
        ("\udcff", r"is not valid TOML"),
    ],
)
def test_bad_files_are_refused_by_key(text: str, message: str, tmp_path: Path):
    path = tmp_path / "device.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(TargetError, match=message) as caught:
        load_target(path)
    assert "device" in str(caught.value)


def test_unknown_names_have_near_matches(tmp_path: Path):
    with pytest.raises(TargetError, match="unknown target 'hots'") as caught:
        load_target("hots")
    assert "host" in str(caught.value.hint)
    with pytest.raises(TargetError) as caught:
        load_target("x86-avx512")
    assert "x86-64-avx512" in str(caught.value.hint)
    with pytest.raises(TargetError, match="does not exist"):
        load_target(tmp_path / "gone.toml")
    (tmp_path / "directory.toml").mkdir()
    with pytest.raises(TargetError, match="cannot be read"):
        load_target(tmp_path / "directory.toml")


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch):
    cores = len(os.sched_getaffinity(0))
    assert load_target("host", threads=cores).threads == cores
    with pytest.raises(TargetError, match=f"asks for {cores + 1} threads") as caught:
        load_target("host", threads=cores + 1)
    assert f"--threads {cores}" in str(caught.value.hint)
    # Another machine's target may have more cores than this one, until it is to be run here.
    foreign = load_target("x86-64-avx512", threads=cores + 1)
    monkeypatch.setattr(target_module, "cpu_flags", lambda: AVX512)
    with pytest.raises(TargetError, match=f"asks for {cores + 1} threads"):
        require_runnable(foreign)


@pytest.mark.parametrize("name", ["x86-64-avx512", "x86-64-avx2"])
def test_foreign_instructions_are_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(target_module, "cpu_flags", lambda: {"asimd", "avx"})
    with pytest.raises(TargetError, match=f"'{name}' needs .*avx.*which this machine lacks"):
        require_runnable(load_target(name))
    monkeypatch.setattr(target_module, "cpu_flags", lambda: AVX512)
    require_runnable(load_target(name))


ARM = """
format = 1
description = "Cortex-A76 board"
kind = "cpu"
isa = "neon"
threads = 4
runner = "rpc"
[tvm]
kind = "llvm"
mtriple = "aarch64-linux-gnu"
mattr = ["+neon"]
[alignment.float32]
conv2d = 4
depthwise = 4
linear = 4
[alignment.int8]
conv2d = 16
"""

CUDA = """
kind = "cuda"
pipeline = "cuda-tensor-core"
[tvm]
kind = "cuda"
arch = "sm_90"
max_threads_per_block = 1024
[alignment.float16]
conv2d = 8
linear = 8
"""

EDGE = """
kind = "edge"
pipeline = "edge-c"
runner = "emulate"
provenance = "emulated"
unit = "instructions"
[tvm]
kind = "c"
mcpu = "cortex-m7"
"""

FPGA = """
kind = "fpga"
runner = "simulate"
provenance = "simulated"
unit = "cycles"
[tvm]
kind = "c"
[alignment.int8]
conv2d = 16
"""


def test_other_kinds_of_device_can_be_described(tmp_path: Path):
    arm = load_target(write(tmp_path, ARM, "arm.toml"))
    assert (arm.name, arm.threads, arm.runner) == ("arm", 4, "rpc")
    assert (arm.simd_lanes, arm.vector_registers) == (4, 24)
    assert (arm.multiple("conv2d"), arm.multiple("conv2d", "int8")) == (4, 16)
    cuda = load_target(write(tmp_path, CUDA, "cuda.toml"))
    assert (cuda.tvm["arch"], cuda.multiple("linear", "float16")) == ("sm_90", 8)
    edge = load_target(write(tmp_path, EDGE, "edge.toml"))
    assert (edge.unit, edge.provenance, edge.multiple("conv2d")) == ("instructions", "emulated", 1)
    assert load_target(write(tmp_path, FPGA, "fpga.toml")).unit == "cycles"


def test_a_foreign_board_cannot_be_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(target_module, "cpu_flags", lambda: AVX512)
    with pytest.raises(TargetError, match="asimd"):
        require_runnable(load_target(write(tmp_path, ARM, "arm.toml")))
