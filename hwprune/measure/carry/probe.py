"""What built libraries return here, for the device to compare its own results with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.compile.kernel_runner import KernelRunner
from hwprune.compile.link import host_architecture, target_architecture
from hwprune.errors import MeasureError
from hwprune.measure.build import BuildJob
from hwprune.measure.crew import Crew
from hwprune.measure.device import usable_cores
from hwprune.measure.process import WorkerProcess
from hwprune.target import Target, cpu_flags, required_flags

#: Values of each output that are compared.
PLACES = 32
#: A library that has not run once after this long has hung.
PROBE_TIMEOUT_S = 120.0

Expected = tuple[tuple[int, float], ...]


class OutputProbe:
    """Runs inside a worker: one library with the arguments that it is timed with."""

    def __init__(self, path: str) -> None:
        self._runner = KernelRunner(Path(path))

    def values(self) -> dict[str, Any]:
        """Pairs of place and value, spread over the output; the largest value is among them."""
        output = self._runner.output().reshape(-1)
        finite = np.isfinite(output)
        places = np.linspace(0, output.size - 1, PLACES).astype(int).tolist()
        largest = int(np.abs(np.where(finite, output, 0)).argmax())
        chosen = sorted({int(place) for place in [*places, largest] if finite[place]})
        return {"values": [(place, float(output[place])) for place in chosen]}


def can_probe(target: Target) -> bool:
    """Whether libraries for a target run on this machine."""
    same = target_architecture(target.tvm.get("mtriple")) == host_architecture()
    return same and required_flags(target) <= cpu_flags() and target.threads <= len(usable_cores())


def probe(jobs: Sequence[BuildJob], target: Target) -> Iterator[tuple[BuildJob, Expected | str]]:
    """Run every library once; its values, or why it cannot be run."""

    def one(job: BuildJob) -> Expected | str:
        worker = crew.worker(
            "probe", lambda: WorkerProcess([], target.threads, "probing worker", hidden=["torch"])
        )
        load = {"do": "load", "engine": f"{__name__}:OutputProbe", "arguments": {"path": str(job.path)}}
        try:
            worker.request(load, PROBE_TIMEOUT_S)
            answer = worker.request({"do": "ask", "method": "values", "arguments": {}}, PROBE_TIMEOUT_S)
        except MeasureError as error:
            return f"cannot be run: {error.message}"
        return tuple((int(place), float(value)) for place, value in answer["values"])

    crew = Crew(max(1, len(usable_cores()) // target.threads), "probe")
    try:
        yield from crew.run(one, jobs)
    finally:
        crew.close()
