"""Times networks beside the dense one, in several processes each, at one pace."""

from __future__ import annotations

import contextlib
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from hwprune.compile import build_program_library
from hwprune.latency.program import Program
from hwprune.measure.device import measuring_cores
from hwprune.measure.process import WorkerProcess
from hwprune.planner.workbench import Workbench
from hwprune.target import Target

#: Rounds of an interleaved run, and samples of each network in a round (the first is not counted).
ROUNDS, SAMPLES = 8, 2
#: Processes per network: where its buffers happen to lie changes its latency by some percent.
LOADS = 3
TIMEOUT_S = 120.0
ENGINE = "bench.paced:PacedRunner"
#: Calls that make up a sample take at least this long.
SAMPLE_S = 4e-3


class Timer:
    """Builds networks and times them beside the dense one."""

    def __init__(self, bench: Workbench, target: Target, seed: int, pool: ProcessPoolExecutor) -> None:
        self._bench, self._target, self._pool = bench, target, pool
        self._order = random.Random(seed)
        self._scratch = tempfile.TemporaryDirectory(prefix="hwprune-prediction-")
        self._dense = Path(self._scratch.name) / "dense.so"

    def time(self, choices: Sequence[Mapping[str, int]]) -> tuple[list[float], float]:
        """Latency of the dense network and of each choice over the pace of the core; the pace in ns."""
        folder = Path(self._scratch.name)
        paths = [folder / f"{number}.so" for number in range(len(choices))]
        jobs = [(self._bench.program_at(w), p) for w, p in zip(choices, paths, strict=True)]
        if not self._dense.is_file():
            jobs.insert(0, (self._bench.program_at(self._bench.model.dense), self._dense))
        for done in [self._pool.submit(build, program, self._target, path) for program, path in jobs]:
            done.result()
        ratios, paces = self._rounds([self._dense, *paths])
        middles = [statistics.fmean(map(statistics.median, loads)) for loads in ratios]
        return middles, statistics.median(paces) * 1e9

    def _rounds(self, paths: Sequence[Path]) -> tuple[list[list[list[float]]], list[float]]:
        """Samples of each process of each network, and all paces in seconds."""
        cores = measuring_cores(self._target.threads)
        ratios: list[list[list[float]]] = [[[] for _ in range(LOADS)] for _ in paths]
        paces: list[float] = []
        with contextlib.ExitStack() as stack:
            workers: list[tuple[list[float], WorkerProcess, int]] = []
            for path, loads in zip(paths, ratios, strict=True):
                for samples in loads:
                    name = f"network '{path.stem}'"
                    worker = stack.enter_context(WorkerProcess(cores, self._target.threads, name))
                    load = {"do": "load", "engine": ENGINE, "arguments": {"path": str(path)}}
                    worker.request(load, TIMEOUT_S)
                    first = worker.request({"do": "time", "number": 1, "repeat": 3}, TIMEOUT_S)["samples_ns"]
                    workers.append((samples, worker, max(1, round(SAMPLE_S * 1e9 / min(first)))))
            for _ in range(ROUNDS):
                for samples, worker, number in self._order.sample(workers, len(workers)):
                    arguments = {"number": number, "repeat": SAMPLES + 1}
                    ask = {"do": "ask", "method": "paced", "arguments": arguments}
                    found = worker.request(ask, TIMEOUT_S)
                    samples += found["ratios"][1:]
                    paces += found["paces"]
        return ratios, paces


def build(program: Program, target: Target, path: Path) -> None:
    """In a process of the pool."""
    build_program_library(program, target, path)
