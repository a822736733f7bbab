"""Does a built kernel return what it should? Each is compared once with PyTorch before it is timed.

The arguments are the same for the library and for the reference: pseudo-random numbers in logical
layout, packed as the compiler packs real weights. The library's last call counts, so that a copy
that spoils its neighbour's memory is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hwprune.compile.kernel_runner import KernelRunner
from hwprune.compile.layout import input_layouts
from hwprune.compile.vm_runtime import VirtualMachine
from hwprune.errors import MeasureError, UnsupportedOperatorError
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelSpec
from hwprune.measure.build import BuildJob
from hwprune.measure.crew import Crew
from hwprune.measure.device import usable_cores
from hwprune.measure.process import WorkerProcess
from hwprune.measure.worker import resolve
from hwprune.target import Target

#: Largest difference from the reference, relative to its largest value, by the rule of the form.
#: Winograd's transforms lose about two digits of single precision.
TOLERANCES: dict[str, float] = {"winograd": 1e-3}
TOLERANCE = 1e-4
#: Runs a library made by :mod:`hwprune.compile`.
DEFAULT_RUN = "hwprune.measure.values:run_library"
#: A check that takes longer has hung: the kernel runs once, and PyTorch does.
CHECK_TIMEOUT_S = 120.0
#: A prime: channels, rows and images are never a whole number of periods apart, so that arguments
#: in the wrong place are seen.
PERIOD = 65521


@dataclass(frozen=True)
class Verdict:
    """What a comparison with the reference has found.

    ``complaint`` is None where the values are right. ``unchecked`` says why nothing could be
    compared. ``difference`` is the largest one, over the largest value of the reference.
    """

    complaint: str | None = None
    unchecked: str | None = None
    difference: float = 0.0


class Checker(Protocol):
    """Compares built libraries with an independent reference."""

    def check(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[BuildJob, Verdict]]:
        """Check all, yielding each job with its verdict as it is known."""
        ...

    def close(self) -> None:
        """Free processes."""
        ...


class CheckPool:
    """Checker over worker processes on this machine, which has to be able to run the libraries.

    Parameters
    ----------
    target
        What the libraries were built for; they run with its number of threads.
    run
        ``package.module:function`` like :func:`run_library`.
    processes
        Default: as many as keep all usable cores busy.
    timeout_s
        A check that takes longer has hung.
    """

    def __init__(
        self,
        target: Target,
        *,
        run: str = DEFAULT_RUN,
        processes: int | None = None,
        timeout_s: float = CHECK_TIMEOUT_S,
    ) -> None:
        self._target = target
        self._run = run
        self._timeout_s = timeout_s
        self._crew = Crew(processes or max(1, len(usable_cores()) // target.threads), "check")

    def check(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[BuildJob, Verdict]]:
        """See :class:`Checker`."""
        yield from self._crew.run(self._one, jobs)

    def close(self) -> None:
        """End all workers, also in the middle of a check."""
        self._crew.close()

    def _one(self, job: BuildJob) -> Verdict:
        threads = self._target.threads
        worker = self._crew.worker("check", lambda: WorkerProcess([], threads, "check worker"))
        arguments = {
            "spec": job.spec.canonical(),
            "target": self._target.model_dump(mode="json"),
            "path": str(job.path),
            "choice": job.choice.to_dict() if job.choice else None,
            "run": self._run,
        }
        load = {"do": "load", "engine": f"{__name__}:LibraryCheck", "arguments": arguments}
        ask = {"do": "ask", "method": "verdict", "arguments": {}}
        try:
            worker.request(load, self._timeout_s)
            return Verdict(**worker.request(ask, self._timeout_s))
        except MeasureError as error:
            return Verdict(f"cannot be run: {error.message}")


class LibraryCheck:
    """Runs inside a worker: one library beside its reference."""

    def __init__(
        self,
        spec: str,
        target: Mapping[str, Any],
        path: str,
        choice: Mapping[str, Any] | None,
        run: str = DEFAULT_RUN,
    ) -> None:
        self._run = run
        self._spec, self._target = KernelSpec.parse(spec), Target.model_validate(target)
        self._path, self._choice = Path(path), Choice.from_dict(choice) if choice else None

    def verdict(self) -> dict[str, Any]:
        """Fields of a :class:`Verdict`."""
        import torch

        from hwprune.measure.reference import reference

        if any(item.dtype != "float32" for item in self._spec.inputs):
            return vars(Verdict(unchecked="only float32 kernels have a reference"))
        arrays = arguments(self._spec)
        try:
            expected = reference(self._spec, [torch.from_numpy(array) for array in arrays]).numpy()
        except UnsupportedOperatorError as error:
            return vars(Verdict(unchecked=error.message))
        except RuntimeError as error:  # PyTorch refuses these arguments
            return vars(Verdict(unchecked=f"PyTorch: {error}"))
        got = resolve(self._run)(self._path, self._spec, self._target, self._choice, arrays)
        tolerance = TOLERANCES.get(self._choice.rule, TOLERANCE) if self._choice else TOLERANCE
        return vars(compare(unpacked(got, expected.shape), expected, tolerance))


def arguments(spec: KernelSpec, seed: int = 0) -> list[np.ndarray]:
    """Pseudo-random numbers for all inputs of a kernel, logical layout, about normal(0, 1)."""
    block = np.random.default_rng(seed).standard_normal(PERIOD).astype(np.float32)
    arrays: list[np.ndarray] = []
    for number, item in enumerate(spec.inputs):
        # No two inputs begin alike, or x - y would be zero.
        shifted = np.roll(block, -1009 * number)
        arrays.append(np.resize(shifted, item.shape))
    return arrays


def run_library(
    path: Path, spec: KernelSpec, target: Target, choice: Choice | None, arrays: Sequence[np.ndarray]
) -> np.ndarray:
    """Run a kernel library on logical arguments; its result in physical layout.

    All copies of the kernel get the same weights, each in a place of its own.
    """
    data: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for item, array, layout in zip(spec.inputs, arrays, input_layouts(spec, target, choice), strict=True):
        (weights if item.role == "weight" else data).append(layout.pack(array))
    machine = VirtualMachine(path, weights * KernelRunner.copies_of(path), target.threads)
    machine.set_inputs(data)
    machine.invoke()
    return machine.outputs()[0]


def unpacked(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A result of logical ``shape`` out of its physical array: ``[N,C/b,H,W,b]`` or plain already."""
    if array.ndim != 5 or len(shape) != 4:
        return array
    n, blocks, h, w, lanes = array.shape
    return array.transpose(0, 1, 4, 2, 3).reshape(n, blocks * lanes, h, w)[:, : shape[1]]


def compare(got: np.ndarray, expected: np.ndarray, tolerance: float) -> Verdict:
    """Judge a result by its largest difference, relative to the largest value of the reference.

    What is not finite in the reference (a logarithm of negative numbers) must not be finite in the
    result either, and the other way round.
    """
    if got.shape != expected.shape:
        return Verdict(f"returned shape {got.shape} instead of {expected.shape}", difference=float("inf"))
    finite = np.isfinite(expected)
    strange = int(np.count_nonzero(np.isfinite(got) != finite))
    if strange:
        return Verdict(f"returned {strange} values that are not finite", difference=float("inf"))
    if not finite.any():
        return Verdict(unchecked="the reference has no finite value")
    with np.errstate(invalid="ignore"):
        differences = np.where(finite, np.abs(got - expected), 0.0)
    scale = max(float(np.abs(expected[finite]).max()), 1e-30)
    worst = np.unravel_index(int(differences.argmax()), differences.shape)
    difference = float(differences[worst]) / scale
    if difference <= tolerance:
        return Verdict(difference=difference)
    place = ",".join(str(int(i)) for i in worst)
    return Verdict(
        f"returned wrong values: {got[worst]:.6g} instead of {expected[worst]:.6g} at [{place}], "
        f"{difference:.1e} of the largest value (tolerance {tolerance:.0e})",
        difference=difference,
    )
