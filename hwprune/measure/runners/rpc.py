"""Times kernels on one device behind a TVM RPC server, a session for every kernel.

A session of its own means a fresh process on the device, a time limit that the server itself
enforces, and that a tracker's devices can be shared with others between two kernels. The client's
side runs in a process as well: whatever happens there, the sweep goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwprune.errors import DeviceLostError, MeasureError
from hwprune.measure.conditions import Conditions
from hwprune.measure.guard import CoreTimes
from hwprune.measure.process import WorkerLostError, WorkerProcess
from hwprune.measure.runners.base import Provenance, Unit
from hwprune.measure.runners.rpc_door import Door
from hwprune.measure.runners.rpc_files import condition_files, conditions_from
from hwprune.measure.sampling import Sampled
from hwprune.measure.stopping import MeasureProfile

ENGINES = "hwprune.compile.remote_engines"
#: A server that takes longer to open a session is busy with somebody, or gone.
CONNECT_S = 60.0
#: The same, for one that was there a moment ago.
RETURN_S = 10.0
#: The server ends a session by itself at its time limit; it has this long to say so.
GRACE_S = 15.0

#: ``ask(method, **arguments)``: an answer of the engine of an open session.
Ask = Callable[..., dict[str, Any]]


class RpcRunner:
    """Wall-clock nanoseconds of one device.

    Parameters
    ----------
    door
        Leads to the device.
    threads
        Threads of the kernels.
    probe
        Library of :mod:`hwprune.compile.remote_probe` for the device, or None.
    cores
        Cores of the device to measure on; needs the probe.
    engine
        What times a library.
    """

    unit: Unit = "ns"
    provenance: Provenance = "measured"

    def __init__(
        self,
        door: Door,
        threads: int = 1,
        probe: Path | None = None,
        cores: Sequence[int] = (),
        *,
        engine: str = f"{ENGINES}:RemoteRunner",
    ) -> None:
        self.threads, self.door = threads, door
        self._probe, self._cores, self._engine = probe, list(cores), engine
        self._worker = WorkerProcess([], 1, f"connection to {door.name}", hidden=["torch"])

    @property
    def name(self) -> str:
        """The device, for messages."""
        return self.door.name

    def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
        """See :class:`hwprune.measure.runners.base.Runner`.

        Raises
        ------
        MeasureError
            The kernel hung, or could not be loaded; the device is still there.
        DeviceLostError
            The connection broke off: the kernel crashed, or the device is gone.
        """
        message: dict[str, Any] = {
            "do": "measure",
            "engine": self._engine,
            "arguments": {"path": str(library), **self._place(profile.job_timeout_s)},
            "profile": profile.to_dict(),
        }
        return Sampled.from_dict(self._request(message, profile.job_timeout_s))

    @contextlib.contextmanager
    def session(self, engine: str, timeout_s: float, **made: Any) -> Generator[Ask]:
        """An engine of :mod:`hwprune.compile.remote_engines` in a session of its own.

        Parameters
        ----------
        engine
            Name of the class.
        timeout_s
            Of the whole session, and of every answer.
        made
            Arguments that the engine is made with.

        Yields
        ------
        Callable
            ``ask(method, **arguments)``.
        """

        def ask(method: str, **arguments: Any) -> dict[str, Any]:
            message = {"do": "ask", "method": method, "arguments": arguments}
            return self._request(message, timeout_s)

        load = {"do": "load", "engine": f"{ENGINES}:{engine}"}
        self._request({**load, "arguments": {**made, **self._place(timeout_s)}}, timeout_s)
        try:
            yield ask
        finally:
            with contextlib.suppress(MeasureError):  # it is over, one way or the other
                self._worker.request({"do": "load", "engine": "builtins:dict", "arguments": {}}, RETURN_S)

    def files(self, paths: Sequence[str], timeout_s: float = CONNECT_S) -> dict[str, str]:
        """Text of files of the device; those that cannot be read are missing."""
        with self.session("RemoteFiles", timeout_s) as ask:
            return ask("read", paths=list(paths))

    def alive(self) -> bool:
        """Whether sessions can be opened, without waiting for a device that others use."""
        if not self.door.known():
            return False
        if not self.door.fixed:
            return True
        try:
            self.files([], RETURN_S)
        except MeasureError:
            return False
        return True

    def core_times(self) -> CoreTimes | None:
        """None: the books of a device's scheduler do not tell its session from others'."""
        return None

    def conditions(self) -> Conditions | None:
        """See :class:`hwprune.measure.runners.base.Runner`."""
        try:
            return conditions_from(self.files(list(condition_files(self._cores))), self._cores)
        except MeasureError:
            return None

    def close(self) -> None:
        """End the connection's process, and with it the session."""
        self._worker.close()

    def _place(self, timeout_s: float) -> dict[str, Any]:
        """Arguments of a new session."""
        return {
            **asdict(self.door.open()),
            "timeout_s": timeout_s,
            "probe": str(self._probe) if self._probe else None,
            "cores": self._cores,
        }

    def _request(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Ask the worker, and tell the device's faults from the kernel's."""
        try:
            return self._worker.request(message, timeout_s + GRACE_S)
        except WorkerLostError as error:
            raise DeviceLostError(f"device {self.name} is lost: {error.message}") from error
        except MeasureError as error:
            kind, _, rest = error.message.partition(": ")
            if kind == DeviceLostError.__name__:
                raise DeviceLostError(rest) from error
            raise MeasureError(rest if kind == MeasureError.__name__ else error.message) from error
