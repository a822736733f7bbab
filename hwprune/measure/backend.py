"""What builds the kernels and networks of a target, and what runs them: one entry per code generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hwprune.compile import build_program_library
from hwprune.errors import UsageError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.program import Program
from hwprune.target import Target


class NetworkBuilder(Protocol):
    """Builds a whole network as one file that the backend's engine can time."""

    def __call__(
        self, program: Program, target: Target, path: Path, choices: ChoiceTable | None = None
    ) -> None:
        """Write ``path`` and whatever belongs beside it."""
        ...


@dataclass(frozen=True)
class Backend:
    """Names are resolved where they are used, in worker processes.

    Attributes
    ----------
    kernel_function
        ``package.module:function`` that builds a kernel library; see
        :class:`hwprune.measure.build.BuildPool`.
    engine
        ``package.module:Class`` that times a kernel or network library; see
        :class:`hwprune.measure.sampling.TimedEngine`.
    suffix
        Ending of library files.
    build_network
        Builds a network library.
    pipeline
        The pipeline hash of a target.
    run
        ``package.module:function`` that runs a kernel library on given arguments; see
        :func:`hwprune.measure.values.run_library`. None: values are not checked.
    """

    kernel_function: str
    engine: str
    suffix: str
    build_network: NetworkBuilder
    pipeline: Callable[[Target], str]
    run: str | None = None


def _tvm_network(program: Program, target: Target, path: Path, choices: ChoiceTable | None = None) -> None:
    build_program_library(program, target, path, choices)


def _tvm_pipeline(target: Target) -> str:
    from hwprune.compile import pipeline_hash as tvm_pipeline_hash

    return tvm_pipeline_hash(target)


def _onnx_network(program: Program, target: Target, path: Path, choices: ChoiceTable | None = None) -> None:
    from hwprune.onnx_backend.kernel_model import build_program_model

    build_program_model(program, target, path)


def _onnx_pipeline(target: Target) -> str:
    from hwprune.onnx_backend.pipeline import onnx_pipeline_hash

    return onnx_pipeline_hash(target)


#: Shared objects out of :mod:`hwprune.compile`.
TVM = Backend(
    "hwprune.compile:build_kernel_library",
    "hwprune.compile:KernelRunner",
    ".so",
    _tvm_network,
    _tvm_pipeline,
    "hwprune.measure.values:run_library",
)
#: ONNX graphs out of :mod:`hwprune.onnx_backend`.
ONNX_RUNTIME = Backend(
    "hwprune.onnx_backend.kernel_model:build_kernel_model",
    "hwprune.onnx_backend.runner:OnnxRunner",
    ".onnx",
    _onnx_network,
    _onnx_pipeline,
    "hwprune.onnx_backend.values:run_kernel_model",
)


def backend_of(target: Target) -> Backend:
    """The backend of a target."""
    return ONNX_RUNTIME if target.backend == "onnxruntime" else TVM


def refuse_forms(target: Target, asked: bool | None) -> None:
    """Refuse a search for forms of kernels where the backend chooses for itself.

    Raises
    ------
    UsageError
        A search was asked for, and the target's backend is ONNX Runtime.
    """
    if asked and target.backend == "onnxruntime":
        raise UsageError(
            f"target '{target.name}': ONNX Runtime chooses the form of each kernel itself",
            hint="leave out --search and --tune, or use a target of the backend 'tvm'",
        )


def pipeline_hash(target: Target) -> str:
    """What ties a latency table to the backend that made its kernels, whichever that is.

    Raises
    ------
    MissingExtraError
        The backend's packages are not installed.
    """
    return backend_of(target).pipeline(target)
