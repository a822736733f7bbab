"""A worker process that answers requests, and survives nothing: crashes are the parent's to handle.

Requests and answers are JSON, one a line, over pipes. The parent side lives here, the other side
in :mod:`hwprune.measure.worker`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from hwprune.errors import MeasureError

#: Libraries read their thread count from the environment when they are loaded.
_THREAD_VARIABLES = (
    "TVM_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class WorkerLostError(MeasureError):
    """The worker died or hung; it has been ended, and the next request starts a new one."""


class WorkerProcess:
    """One worker, started at the first request and again after a loss.

    On Linux it dies with the *thread* that started it: use it from one that lives long enough.

    Parameters
    ----------
    cores
        Cores it is pinned to; empty leaves it free.
    threads
        Threads its libraries may use.
    name
        For messages.
    hidden
        Packages that must not be imported in it.
    """

    def __init__(
        self,
        cores: Sequence[int],
        threads: int,
        name: str = "timing worker",
        *,
        hidden: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._hidden = ",".join(hidden)
        self._cores = list(cores)
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as we do
        self._buffer = b""

    @property
    def pid(self) -> int | None:
        """Process number while a worker runs."""
        return self._process.pid if self._process else None

    def request(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises
        ------
        WorkerLostError
            No answer in time, or the worker died.
        MeasureError
            The worker answered that the request failed.
        """
        if self._process is not None and self._process.poll() is not None:
            self._end()  # it died idle (a system short of memory): that is no fault of this request
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            raise self._lost("died") from error
        try:
            line = self._read_line(process, timeout_s)
        except KeyboardInterrupt:
            self._end()  # or its answer would be taken for that to the next request
            raise
        answer = json.loads(line)
        if "error" in answer:
            raise MeasureError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """End the worker."""
        self._end()
        self._errors.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._buffer = b""
        self._errors.seek(0)
        self._errors.truncate()
        paths = [path or os.getcwd() for path in sys.path]  # noqa: PTH109 - '' means it, literally
        environment = {
            **os.environ,
            **dict.fromkeys(_THREAD_VARIABLES, str(self._threads)),
            # TVM would pin its threads by its own list of cores, past the affinity we set.
            "TVM_BIND_THREADS": "0",
            "GLIBC_TUNABLES": large_pages(os.environ.get("GLIBC_TUNABLES", "")),
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        }
        command = [sys.executable, "-P", "-m", "hwprune.measure.worker", ",".join(map(str, self._cores))]
        command.append(self._hidden)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            bufsize=0,
        )
        return self._process

    def _read_line(self, process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            if not _readable(descriptor, deadline - time.monotonic()):
                raise self._lost(f"did not answer within {timeout_s:g} s")
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise self._lost("died")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _lost(self, what: str) -> WorkerLostError:
        code = self._end()
        if what == "died" and code is not None:
            what = f"died with {_signal_name(-code)}" if code < 0 else f"died with exit code {code}"
        return WorkerLostError(f"{self.name} {what}{self._last_words()}")

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            # One that has died by itself has a code worth telling; leave it a moment to be reaped.
            process.wait(2.0 if self._at_end(process) else 0)
        if process.poll() is None:
            process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return code

    @staticmethod
    def _at_end(process: subprocess.Popen[bytes]) -> bool:
        """Whether the worker's end of the pipe is closed."""
        assert process.stdout is not None
        return _readable(process.stdout.fileno(), 0)


def large_pages(tunables: str) -> str:
    """The value of ``GLIBC_TUNABLES`` that makes C programs ask for large pages, where Linux has them.

    In small pages, maps of some hundred kilobytes share cache sets by chance: one and the same network
    differs by 4 % from process to process, and is up to a tenth slower.
    """
    wanted = "glibc.malloc.hugetlb=1"
    return tunables if "glibc.malloc.hugetlb" in tunables else ":".join(filter(None, (tunables, wanted)))


def _readable(descriptor: int, timeout_s: float) -> bool:
    # Not select(): that fails in a program with more than a thousand open files.
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(max(timeout_s, 0)))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
