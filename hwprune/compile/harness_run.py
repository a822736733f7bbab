#!/usr/bin/env python3
"""Run and time this bundle. Needs Python with numpy and apache-tvm-ffi, nothing else.

A bundle made on a machine of another architecture has no TVM runtime in it; it needs apache-tvm.

    python run.py --repeats 50 --inputs x.npy --output y.npy

Prints one JSON object: samples in nanoseconds, their median and minimum.
"""

import argparse
import ctypes
import hashlib
import importlib.util
import json
import os
import platform
import statistics
import struct
import sys
import time
from pathlib import Path
from typing import Any, NoReturn


def fail(message: str) -> NoReturn:
    sys.exit(f"error: {message}")


def use_large_pages() -> None:
    """Begin again with large pages for the maps between layers, where Linux's C library can.

    That is up to a tenth quicker, and can only be said before a program starts.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)


def aligned(numpy: Any, shape: list[int]) -> Any:
    """Empty float32 array at a multiple of 64 bytes: compiled code loads whole vectors."""
    count = 4
    for extent in shape:
        count *= extent
    raw = numpy.empty(count + 64, numpy.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count].view(numpy.float32).reshape(shape)


def read_weights(numpy: Any, path: Path) -> list[Any]:
    """Tensors of a safetensors file (float32), in the order of their names."""
    data = memoryview(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(bytes(data[8 : 8 + length]))
    header.pop("__metadata__", None)
    tensors: list[Any] = []
    for name in sorted(header):
        begin, end = header[name]["data_offsets"]
        tensor = aligned(numpy, header[name]["shape"])
        stored = numpy.frombuffer(data[8 + length + begin : 8 + length + end], "<f4")
        tensor[...] = stored.reshape(tensor.shape)
        tensors.append(tensor)
    return tensors


def libraries(manifest: dict[str, Any]) -> tuple[Any, Any]:
    """numpy and tvm_ffi; the latter would import torch, for seconds, to no use here."""
    hidden: dict[str, Any] = sys.modules
    hidden["torch"] = None
    try:
        import numpy
        import tvm_ffi
    except ImportError as error:
        fail(f"{error}; pip install numpy apache-tvm-ffi=={manifest['versions']['tvm_ffi']}")
    return numpy, tvm_ffi


def check_machine(manifest: dict[str, Any]) -> None:
    here = platform.machine().lower()
    here = {"amd64": "x86_64", "arm64": "aarch64"}.get(here, here)
    wanted = manifest.get("architecture") or here
    if wanted != here:
        fail(f"this bundle is for {wanted}, this machine is {here}: run it on the device")


def runtime(folder: Path, manifest: dict[str, Any]) -> Path:
    """The TVM runtime in this bundle, or else that of the installed apache-tvm."""
    bundled = folder / "libtvm_runtime.so"
    if manifest.get("runtime", "bundled") == "bundled":
        return bundled
    found = importlib.util.find_spec("tvm")  # importing it would take seconds
    for place in (found.submodule_search_locations or []) if found else []:
        installed = Path(place) / "lib" / "libtvm_runtime.so"
        if installed.is_file():
            return installed
    fail(f"the TVM runtime is missing; on this machine: pip install {manifest['runtime']}")


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            fail(f"{name} is missing from the bundle")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            fail(f"{name} does not match its checksum in manifest.json")


def load_inputs(numpy: Any, manifest: dict[str, Any], paths: list[str]) -> list[Any]:
    shapes = [item["shape"] for item in manifest["inputs"]]
    if paths and len(paths) != len(shapes):
        fail(f"the module takes {len(shapes)} inputs, {len(paths)} files were given")
    random = numpy.random.default_rng(0)
    arrays: list[Any] = []
    for number, shape in enumerate(shapes):
        array = aligned(numpy, shape)
        if paths:
            given = numpy.load(paths[number], allow_pickle=False)
            if list(given.shape) != shape or given.dtype != numpy.float32:
                fail(f"{paths[number]}: expected float32 of shape {shape}, got {given.dtype} {given.shape}")
            array[...] = given
        else:
            array[...] = random.standard_normal(shape)
        arrays.append(array)
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description="Run and time this bundle.")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--inputs", nargs="*", default=[], help=".npy files, one per input")
    parser.add_argument("--output", nargs="*", default=[], help=".npy files to write, one per output")
    options = parser.parse_args()
    folder = Path(__file__).resolve().parent
    manifest = json.loads((folder / "manifest.json").read_text())
    if manifest["format"] != 1:
        fail(f"manifest format {manifest['format']} is not 1; use a matching version of hwprune")
    check_machine(manifest)
    check_files(folder, manifest)
    numpy, tvm_ffi = libraries(manifest)
    ctypes.CDLL(str(runtime(folder, manifest)), ctypes.RTLD_GLOBAL)
    threads = options.threads or manifest["target"]["threads"]
    if threads > 1:
        # TVM would take half of the cores of an x86 machine, and bind threads to the first ones.
        os.environ.setdefault("TVM_NUM_THREADS", str(max(threads, os.cpu_count() or 1)))
        os.environ.setdefault("TVM_BIND_THREADS", "0")
        tvm_ffi.get_global_func("runtime.config_threadpool")(1, threads)
    module = tvm_ffi.load_module(str(folder / "model.so"))
    machine = module["vm_load_executable"]()
    machine["vm_initialization"](1, 0, 2, 1, 0, 2)
    arrays = load_inputs(numpy, manifest, options.inputs)
    arrays += read_weights(numpy, folder / "weights.safetensors")
    machine["set_input"]("main", *[tvm_ffi.from_dlpack(a) for a in arrays])
    invoke = machine["invoke_stateful"]
    for _ in range(max(1, options.warmup)):
        invoke("main")
    samples: list[int] = []
    for _ in range(options.repeats):
        begin = time.perf_counter_ns()
        invoke("main")
        samples.append(time.perf_counter_ns() - begin)
    for number, path in enumerate(options.output):
        numpy.save(path, numpy.from_dlpack(machine["get_output"]("main", number)), allow_pickle=False)
    result = {
        "target": manifest["target"]["name"],
        "pipeline": manifest["pipeline"],
        "threads": threads,
        "unit": "ns",
        "samples_ns": samples,
        "median_ns": statistics.median(samples) if samples else None,
        "min_ns": min(samples, default=None),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    json.dump(result, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    use_large_pages()
    main()
