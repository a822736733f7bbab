"""Who can take part in a comparison: an engine by name, and what it is made with.

An engine of a comparison has ``time(number, repeat)`` and ``outputs()``. It is made in its own
worker process with ``inputs`` (path of an ``.npz`` file), ``threads`` and the contender's arguments.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.errors import MissingExtraError
from hwprune.measure.worker import hide

#: What runs once and returns outputs.
Call = Callable[[], list[np.ndarray]]


@dataclass(frozen=True)
class Contender:
    """An engine that a worker process can make.

    Attributes
    ----------
    engine
        ``package.module:Class``.
    arguments
        Keyword arguments, of JSON's types.
    """

    engine: str
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])


def bundle_contender(directory: Path) -> Contender:
    """A compiled bundle (see :mod:`hwprune.compile`)."""
    return Contender(f"{__name__}:BundleEngine", {"path": str(Path(directory).resolve())})


def onnx_contender(path: Path) -> Contender:
    """An ``.onnx`` file through ONNX Runtime's CPU provider.

    Raises
    ------
    MissingExtraError
        onnxruntime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingExtraError("onnxruntime is not installed", hint="pip install 'hwprune[onnx]'")
    return Contender(f"{__name__}:OnnxEngine", {"path": str(Path(path).resolve())})


def openvino_contender(path: Path) -> Contender:
    """An ``.onnx`` file through OpenVINO's CPU plug-in, in float32.

    Raises
    ------
    MissingExtraError
        openvino is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise MissingExtraError("openvino is not installed", hint="pip install 'hwprune[bench]'")
    return Contender(f"{__name__}:OpenVinoEngine", {"path": str(Path(path).resolve())})


def torch_contender(path: Path) -> Contender:
    """A ``.pt2`` file (``torch.export.save``) run operator by operator, as PyTorch eager does."""
    return Contender(f"{__name__}:TorchEngine", {"path": str(Path(path).resolve())})


class CallEngine:
    """Times a Python call; the engines below say which."""

    def __init__(self, call: Call) -> None:
        self._run = call

    def outputs(self) -> list[np.ndarray]:
        """Outputs for the comparison's inputs."""
        return self._run()

    def time(self, number: int, repeat: int) -> list[float]:
        """``repeat`` samples of mean seconds per call over ``number`` calls."""
        samples: list[float] = []
        for _ in range(repeat):
            start = time.perf_counter_ns()
            for _ in range(number):
                self._run()
            samples.append((time.perf_counter_ns() - start) / number * 1e-9)
        return samples


class BundleEngine(CallEngine):
    """A bundle through the runtime it ships with or names."""

    def __init__(self, path: str, inputs: str, threads: int) -> None:
        hide({"torch"})  # a bundle runs where torch is not installed
        from hwprune.onnx_backend.bundle import open_bundle

        bundle = open_bundle(Path(path))
        arrays = load_arrays(Path(inputs))
        super().__init__(lambda: bundle.run(*arrays))


class OnnxEngine(CallEngine):
    """ONNX Runtime with the options of the backend of that name."""

    def __init__(self, path: str, inputs: str, threads: int) -> None:
        from hwprune.onnx_backend.session import make_session, run_session

        session, arrays = make_session(path, threads), load_arrays(Path(inputs))
        super().__init__(lambda: run_session(session, arrays))


class OpenVinoEngine(CallEngine):
    """OpenVINO for one request at a time.

    By itself it computes in bfloat16 where the processor can, which no other contender does.
    """

    def __init__(self, path: str, inputs: str, threads: int) -> None:
        import openvino

        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # The worker is pinned already, to cores that OpenVINO might choose otherwise.
            "ENABLE_CPU_PINNING": False,
        }
        request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()
        feed = dict(enumerate(load_arrays(Path(inputs))))
        count = len(request.model_outputs)

        def call() -> list[np.ndarray]:
            result = request.infer(feed, share_inputs=True)
            return [np.asarray(result[i]) for i in range(count)]

        super().__init__(call)


class TorchEngine(CallEngine):
    """A saved ``ExportedProgram``, unlifted and called like any module."""

    def __init__(self, path: str, inputs: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        module = torch.export.load(path).module()
        tensors = [torch.from_numpy(array) for array in load_arrays(Path(inputs))]

        def call() -> list[np.ndarray]:
            with torch.inference_mode():
                result = module(*tensors)
            return [t.numpy() for t in (result if isinstance(result, (tuple, list)) else (result,))]

        super().__init__(call)


def save_arrays(path: Path, arrays: list[np.ndarray]) -> None:
    """Write arrays to an ``.npz`` file."""
    np.savez(path, *arrays)


def load_arrays(path: Path) -> list[np.ndarray]:
    """Arrays of an ``.npz`` file in the order they were saved."""
    with np.load(path, allow_pickle=False) as data:
        return [data[f"arr_{i}"] for i in range(len(data.files))]
