#!/usr/bin/env python3
"""Run and time this bundle. Needs Python with numpy and onnxruntime, nothing else.

    python run.py --repeats 50 --inputs x.npy --output y.npy

Prints one JSON object: samples in nanoseconds, their median and minimum. The model itself is
``model.onnx``; it runs in whatever else reads ONNX, too.
"""

import argparse
import hashlib
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NoReturn


def fail(message: str) -> NoReturn:
    sys.exit(f"error: {message}")


def libraries(manifest: dict[str, Any]) -> tuple[Any, Any]:
    try:
        import numpy
        import onnxruntime
    except ImportError as error:
        fail(f"{error}; pip install numpy '{manifest['runtime']}'")
    return numpy, onnxruntime


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
        if not paths:
            arrays.append(random.standard_normal(shape).astype(numpy.float32))
            continue
        given = numpy.load(paths[number], allow_pickle=False)
        if list(given.shape) != shape or given.dtype != numpy.float32:
            fail(f"{paths[number]}: expected float32 of shape {shape}, got {given.dtype} {given.shape}")
        arrays.append(numpy.ascontiguousarray(given))
    return arrays


def make_session(onnxruntime: Any, path: Path, threads: int) -> Any:
    """With the options that the plan was measured with."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        fail(f"ONNX Runtime {onnxruntime.__version__} cannot load {path.name}: {error}")


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
    check_files(folder, manifest)
    numpy, onnxruntime = libraries(manifest)
    threads = options.threads or manifest["target"]["threads"]
    session = make_session(onnxruntime, folder / "model.onnx", threads)
    binding = session.io_binding()
    for entry, array in zip(session.get_inputs(), load_inputs(numpy, manifest, options.inputs), strict=True):
        binding.bind_cpu_input(entry.name, array)
    for entry in session.get_outputs():
        binding.bind_output(entry.name)
    run = session.run_with_iobinding
    for _ in range(max(1, options.warmup)):
        run(binding)
    samples: list[int] = []
    for _ in range(options.repeats):
        begin = time.perf_counter_ns()
        run(binding)
        samples.append(time.perf_counter_ns() - begin)
    outputs = binding.copy_outputs_to_cpu()
    for number, path in enumerate(options.output):
        numpy.save(path, outputs[number], allow_pickle=False)
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
        "onnxruntime": onnxruntime.__version__,
    }
    json.dump(result, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
