"""Timing several forms of one kernel against each other, inside the worker.

Successive halving: every form runs a little, the better ones run more. All that are still in the
race take turns in an order drawn anew each round, so that the machine's drift hits all alike.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.compile.kernel_runner import KernelRunner
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelSpec
from hwprune.measure.values import run_library
from hwprune.target import Target

#: Rounds of each heat, and how many forms stay for it (the first one always does).
HEATS: tuple[tuple[int, int], ...] = ((2, 1000), (4, 5), (8, 3))
#: A turn lasts at least about this long.
TURN_S = 1e-3


class RaceEngine:
    """Kernel libraries of one spec; the first is the default form.

    Parameters
    ----------
    paths
        Built libraries, with their sidecars.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._runners = [KernelRunner(Path(path)) for path in paths]
        self._turns = [_runs_per_turn(runner) for runner in self._runners]

    def race(self, seed: int, heats: Sequence[Sequence[int]] = HEATS) -> dict[str, Any]:
        """Nanoseconds per kernel call of every turn of every form."""
        order = random.Random(seed)
        samples: list[list[float]] = [[] for _ in self._runners]
        running = list(range(len(self._runners)))
        for rounds, most in heats:
            if samples[0]:
                ranked = sorted(running[1:], key=lambda i: statistics.median(samples[i]))
                running = [0, *ranked[: most - 1]]
            for _ in range(rounds):
                for i in order.sample(running, len(running)):
                    if self._turns[i] > 1:
                        # A short run would pay for caches full of another form's arguments.
                        self._runners[i].time(1, 1)
                    samples[i] += [s * 1e9 for s in self._runners[i].time(self._turns[i], 1)]
        return {"samples_ns": samples}


def _runs_per_turn(runner: KernelRunner) -> int:
    begin = time.perf_counter()
    runner.time(1, 1)
    return max(1, min(1000, round(TURN_S / max(time.perf_counter() - begin, 1e-7))))


class CheckEngine:
    """Runs two forms of a kernel on the same random arguments.

    Parameters
    ----------
    spec, target
        Canonical spec, and the target's fields.
    forms
        ``{"path", "choice"}`` of each, the default (``choice`` None) first.
    """

    def __init__(self, spec: str, target: Mapping[str, Any], forms: Sequence[Mapping[str, Any]]) -> None:
        self._spec, self._target = KernelSpec.parse(spec), Target.model_validate(target)
        self._forms = forms

    def compare(self, seed: int) -> dict[str, Any]:
        """Largest difference of the second form's output from the first's, over the largest output."""
        first, second = (self._output(form, seed) for form in self._forms)
        return {"difference": float(np.abs(second - first).max() / max(float(np.abs(first).max()), 1e-30))}

    def _output(self, form: Mapping[str, Any], seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        choice = Choice.from_dict(form["choice"]) if form["choice"] else None
        arrays = [random.standard_normal(item.shape, np.float32) for item in self._spec.inputs]
        return run_library(Path(form["path"]), self._spec, self._target, choice, arrays)
