"""What a timing worker does on a remote device: one session from the engine's birth to its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.compile.remote import Endpoint, RemoteLibrary, RemoteSession


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
        self._library = RemoteLibrary(self._session, Path(path))
        #: The clock is on the device: how long a run took follows from what it says.
        self.calls_per_run = self._library.copies
        self._busy_s = self._cpu_s = 0.0

    def time(self, number: int, repeat: int) -> list[float]:
        """See :class:`hwprune.compile.remote.RemoteLibrary`."""
        before = self._session.cpu_s()
        samples = self._library.time(number, repeat)
        after = self._session.cpu_s()
        if before is not None and after is not None:
            # The evaluator runs once more than it counts.
            self._busy_s += (sum(samples) * number + samples[0]) * self._library.copies
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
        return self._library.outputs()

    def values(self) -> dict[str, Any]:
        """Results of the last run as plain lists."""
        return {"outputs": [array.ravel().tolist() for array in self.outputs()]}

    def nonfinite(self) -> int:
        """Values in the results of the last run that are NaN or infinite."""
        return sum(int(np.count_nonzero(~np.isfinite(array))) for array in self.outputs())


class RemoteNetworks:
    """Times several networks in one session, one at a time."""

    def __init__(self, paths: Sequence[str], **session: Any) -> None:
        opened = open_session(**session)
        self._libraries = [RemoteLibrary(opened, Path(path)) for path in paths]

    def turn(self, index: int, number: int, repeat: int) -> dict[str, Any]:
        """Nanoseconds per run of one network."""
        return {"samples_ns": [s * 1e9 for s in self._libraries[index].time(number, repeat)]}


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
