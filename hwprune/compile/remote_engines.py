"""What a timing worker does on a remote device: one session from the engine's birth to its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.compile.remote import Endpoint, RemoteSession
from hwprune.compile.remote_program import open_bundle, open_library


class RemoteRunner:
    """Times one library; see :class:`hwprune.measure.sampling.TimedEngine`.

    Parameters
    ----------
    path
        The library, with its sidecar.
    session
        Arguments of :func:`open_session`.
    """

    def __init__(self, path: str, **session: Any) -> None:
        self._session = open_session(**session)
        self._program = open_library(self._session, Path(path))
        #: The clock is on the device: how long a run took follows from what it says.
        self.calls_per_run = self._program.copies
        self._busy_s = self._cpu_s = 0.0

    def time(self, number: int, repeat: int) -> list[float]:
        """See :class:`hwprune.compile.remote_program.RemoteProgram`."""
        before = self._session.cpu_s()
        samples = self._program.time(number, repeat)
        after = self._session.cpu_s()
        if before is not None and after is not None:
            # The evaluator runs once more than it counts.
            self._busy_s += (sum(samples) * number + samples[0]) * self._program.copies
            self._cpu_s += after - before
        return samples

    def turn(self, number: int, repeat: int) -> dict[str, Any]:
        """Nanoseconds per call."""
        return {"samples_ns": [s * 1e9 for s in self.time(number, repeat)]}

    def cpu_share(self) -> float | None:
        """Processor time over time spent in kernels; None where the device does not tell."""
        return self._cpu_s / self._busy_s if self._busy_s else None

    def outputs(self) -> list[np.ndarray]:
        """Results of the last run."""
        return self._program.outputs()

    def values(self) -> dict[str, Any]:
        """Results of the last run as plain lists."""
        return {"outputs": [array.ravel().tolist() for array in self.outputs()]}

    def nonfinite(self) -> int:
        """Values in the results of the last run that are NaN or infinite."""
        return sum(int(np.count_nonzero(~np.isfinite(array))) for array in self.outputs())


class RemoteNetworks:
    """Times several networks in one session, one at a time."""

    def __init__(self, paths: Sequence[str], **session: Any) -> None:
        self._session = open_session(**session)
        self._programs = [open_library(self._session, Path(path)) for path in paths]

    def turn(self, index: int, number: int, repeat: int) -> dict[str, Any]:
        """Nanoseconds per run of one network."""
        return {"samples_ns": [s * 1e9 for s in self._programs[index].time(number, repeat)]}


class RemoteBundles(RemoteNetworks):
    """Bundles with their own weights.

    Parameters
    ----------
    paths
        Their directories.
    inputs
        ``.npz`` file of the arrays that all of them get.
    """

    def __init__(self, paths: Sequence[str], inputs: str, **session: Any) -> None:
        super().__init__([], **session)
        with np.load(inputs, allow_pickle=False) as data:
            arrays = [data[f"arr_{i}"] for i in range(len(data.files))]
        self._programs = [open_bundle(self._session, Path(path), arrays) for path in paths]

    def save_outputs(self, index: int, path: str) -> dict[str, Any]:
        """Write the results of one bundle to an ``.npz`` file."""
        outputs = self._programs[index].outputs()
        np.savez(path, *outputs)
        return {"count": len(outputs)}


class RemoteFiles:
    """Reads what the device's system tells about it."""

    def __init__(self, **session: Any) -> None:
        self._session = open_session(**session)

    def read(self, paths: Sequence[str]) -> dict[str, Any]:
        """Text of files; those that cannot be read are missing."""
        found = {path: self._session.read(path) for path in paths}
        return {path: data.decode(errors="replace") for path, data in found.items() if data is not None}


def open_session(
    host: str,
    port: int,
    key: str,
    timeout_s: float,
    probe: str | None = None,
    cores: Sequence[int] = (),
) -> RemoteSession:
    """A session from the plain values of the wire to a worker."""
    return RemoteSession(Endpoint(host, port, key), timeout_s, Path(probe) if probe else None, cores)
