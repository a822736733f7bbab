"""Builds kernel libraries on all cores, in processes that may crash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hwprune.errors import MeasureError
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelSpec
from hwprune.measure.crew import Crew
from hwprune.measure.device import usable_cores
from hwprune.measure.process import WorkerProcess
from hwprune.measure.worker import resolve
from hwprune.target import Target

DEFAULT_FUNCTION = "hwprune.compile:build_kernel_library"
BUILD_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class BuildJob:
    """One library to build: ``copies`` calls of the kernel, each with its own weights.

    ``choice`` is the form to build it in; None is the default.
    """

    spec: KernelSpec
    path: Path
    copies: int
    choice: Choice | None = None


class Builder(Protocol):
    """Turns jobs into libraries."""

    def build(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[BuildJob, str | None]]:
        """Build all, yielding each job with the reason of its failure, or ``None``."""
        ...

    def close(self) -> None:
        """Free processes."""
        ...


class BuildPool:
    """Builder over worker processes. They stay alive between batches: importing TVM is slow.

    Parameters
    ----------
    target
        What is built for.
    function
        ``package.module:function`` called as ``function(spec, target, path, copies)``, with the
        keyword ``choice`` for a job that has one.
    processes
        Default: one per usable core.
    timeout_s
        A build that takes longer has hung.
    """

    def __init__(
        self,
        target: Target,
        *,
        function: str = DEFAULT_FUNCTION,
        processes: int | None = None,
        timeout_s: float = BUILD_TIMEOUT_S,
    ) -> None:
        self._target = target.model_dump(mode="json")
        self._function = function
        self._timeout_s = timeout_s
        self._crew = Crew(processes or len(usable_cores()), "build")

    def build(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[BuildJob, str | None]]:
        """See :class:`Builder`."""
        yield from self._crew.run(self._one, jobs)

    def close(self) -> None:
        """End all workers, also in the middle of a build."""
        self._crew.close()

    def _one(self, job: BuildJob) -> str | None:
        worker = self._worker(imports_torch=job.spec.anchor == "fallback")
        arguments: dict[str, Any] = {
            "function": self._function,
            "spec": job.spec.canonical(),
            "target": self._target,
            "path": str(job.path),
            "copies": job.copies,
            "choice": job.choice.to_dict() if job.choice else None,
        }
        message = {"do": "call", "function": f"{__name__}:build_in_worker", "arguments": arguments}
        try:
            worker.request(message, self._timeout_s)
        except MeasureError as error:
            return error.message
        return None

    def _worker(self, *, imports_torch: bool) -> WorkerProcess:
        """This thread's worker. Kernels of TVM's importer need torch, which others do not wait for."""
        if imports_torch:
            return self._crew.worker("importing", lambda: WorkerProcess([], 1, "build worker"))
        return self._crew.worker("plain", lambda: WorkerProcess([], 1, "build worker", hidden=["torch"]))


def build_in_worker(
    function: str,
    spec: str,
    target: dict[str, Any],
    path: str,
    copies: int,
    choice: dict[str, Any] | None = None,
) -> None:
    """Runs inside a worker: from the wire's plain values to the real call."""
    more = {"choice": Choice.from_dict(choice)} if choice else {}
    resolve(function)(KernelSpec.parse(spec), Target.model_validate(target), Path(path), copies, **more)
