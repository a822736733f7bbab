"""What builds the kernels and networks of a target, and what runs them: one entry per code generator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hwprune.compile import build_program_library
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
    run
        ``package.module:function`` that runs a kernel library on given arguments; see
        :func:`hwprune.measure.values.run_library`. None: values are not checked.
    """

    kernel_function: str
    engine: str
    suffix: str
    build_network: NetworkBuilder
    run: str | None = None


def _tvm_network(program: Program, target: Target, path: Path, choices: ChoiceTable | None = None) -> None:
    build_program_library(program, target, path, choices)


#: Shared objects out of :mod:`hwprune.compile`.
TVM = Backend(
    "hwprune.compile:build_kernel_library",
    "hwprune.compile:KernelRunner",
    ".so",
    _tvm_network,
    "hwprune.measure.values:run_library",
)


def backend_of(target: Target) -> Backend:
    """The backend of a target."""
    return TVM
