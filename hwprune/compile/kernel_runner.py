"""Timing a kernel library in a light process: neither ``torch`` nor ``tvm`` is imported."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.compile.fixed_work import fixed_work
from hwprune.compile.vm_runtime import VirtualMachine, aligned_empty
from hwprune.errors import ArtifactError


def _filled(shape: tuple[int, ...], block: np.ndarray) -> np.ndarray:
    """A new buffer with ``block`` written over and over; its pages are touched."""
    array = aligned_empty(shape)
    flat = array.reshape(-1)
    whole = flat.size // block.size * block.size
    flat[:whole].reshape(-1, block.size)[...] = block
    flat[whole:] = block[: flat.size - whole]
    return array


class KernelRunner:
    """A loaded kernel library with arguments of small normal random numbers.

    Raises
    ------
    ArtifactError
        The sidecar is missing or malformed.
    """

    def __init__(self, path: Path) -> None:
        sidecar = Path(path).with_suffix(".json")
        try:
            self.info: dict[str, Any] = json.loads(sidecar.read_text())
            inputs = [tuple(s) for s in self.info["inputs"]]
            weights = [tuple(s) for s in self.info["weights"]]
            self.copies = int(self.info["copies"])
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"{sidecar} is missing or malformed: {error}") from error
        block = (0.05 * np.random.default_rng(0).standard_normal(4096)).astype(np.float32)
        self._machine = VirtualMachine(
            Path(path), [_filled(s, block) for s in weights], int(self.info["threads"])
        )
        self._machine.set_inputs([_filled(s, block) for s in inputs])
        self._machine.invoke()

    @staticmethod
    def copies_of(path: Path) -> int:
        """Calls, and sets of weights, in a library's ``main``."""
        return int(json.loads(Path(path).with_suffix(".json").read_text())["copies"])

    def time(self, number: int, repeat: int) -> list[float]:
        """``repeat`` samples, each the mean over ``number`` runs: seconds per single kernel call."""
        invoke, samples = self._machine.invoke, list[float]()
        for _ in range(repeat):
            begin = time.perf_counter_ns()
            for _ in range(number):
                invoke()
            samples.append((time.perf_counter_ns() - begin) * 1e-9 / (number * self.copies))
        return samples

    def pace(self) -> float:
        """Seconds that a fixed piece of work takes now; see :mod:`hwprune.compile.fixed_work`."""
        return fixed_work()

    def nonfinite(self) -> int:
        """Values in the result of the last call that are NaN or infinite."""
        return int(np.count_nonzero(~np.isfinite(self.output())))

    def output(self) -> np.ndarray:
        """Result of the last call, physical layout."""
        return self._machine.outputs()[0]
