"""Timing a model of :mod:`hwprune.onnx_backend.kernel_model` in a light process.

Neither ``torch`` nor ``onnx`` nor ``tvm`` is imported.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.compile.fixed_work import fixed_work
from hwprune.errors import ArtifactError
from hwprune.onnx_backend.session import make_session, random_array


class OnnxRunner:
    """A loaded kernel or network with small normal random numbers as inputs and weights.

    All copies of a kernel are nodes of one graph, each with its own weights: a run goes through
    more weights than the inner caches hold, and the cost of calling a session is shared out as it
    is in a network. ONNX Runtime packs every set when the session is made, as it does for a
    network. Inputs and outputs are bound once, so that a run copies nothing.

    Raises
    ------
    ArtifactError
        The sidecar is missing or malformed.
    """

    def __init__(self, path: Path) -> None:
        sidecar = Path(path).with_suffix(".json")
        try:
            info: dict[str, Any] = json.loads(sidecar.read_text())
            weights = {str(n): tuple(int(d) for d in s) for n, s in info["weights"].items()}
            self.copies, threads = int(info["copies"]), int(info["threads"])
            optimise = bool(info["optimise"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{sidecar} is missing or malformed: {error}") from error
        values = {name: random_array(shape) for name, shape in weights.items()}
        self._session = make_session(Path(path), threads, weights=values, optimise=optimise)
        self._binding = self._session.io_binding()
        for entry in self._session.get_inputs():
            self._binding.bind_cpu_input(entry.name, random_array(tuple(entry.shape)))
        for entry in self._session.get_outputs():
            self._binding.bind_output(entry.name)
        self._session.run_with_iobinding(self._binding)
        # From now on the results go to the same buffers, not to new ones.
        for entry, value in zip(self._session.get_outputs(), self._binding.get_outputs(), strict=True):
            self._binding.bind_ortvalue_output(entry.name, value)
        self._session.run_with_iobinding(self._binding)

    def time(self, number: int, repeat: int) -> list[float]:
        """``repeat`` samples, each the mean over ``number`` runs: seconds per single kernel call."""
        run, binding, samples = self._session.run_with_iobinding, self._binding, list[float]()
        for _ in range(repeat):
            begin = time.perf_counter_ns()
            for _ in range(number):
                run(binding)
            samples.append((time.perf_counter_ns() - begin) * 1e-9 / (number * self.copies))
        return samples

    def pace(self) -> float:
        """Seconds that a fixed piece of work takes now; see :mod:`hwprune.compile.fixed_work`."""
        return fixed_work()

    def nonfinite(self) -> int:
        """Values in the results of the last run that are NaN or infinite."""
        return sum(int(np.count_nonzero(~np.isfinite(array))) for array in self.outputs())

    def outputs(self) -> list[np.ndarray]:
        """Results of the last run, physical layout."""
        return [value.numpy() for value in self._binding.get_outputs()]
