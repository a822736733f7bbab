"""The parent's side of the process that runs kernels."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from typing import Any


class KernelError(Exception):
    """A kernel could not be timed: it failed, crashed or hung. The next one gets a new process."""


class KernelProcess:
    """One child, started at the first request and again after a loss.

    Parameters
    ----------
    command
        Command line of the child.
    threads
        Threads its libraries may use.
    """

    def __init__(self, command: list[str], threads: int) -> None:
        self._command = command
        self._environment = {
            "TVM_NUM_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            "TVM_BIND_THREADS": "0",
            # In small pages, buffers share cache sets by chance, and times differ from process to process.
            "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES") or "glibc.malloc.hugetlb=1",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as we do
        self._buffer = b""

    @property
    def pid(self) -> int | None:
        """Process number while there is a child."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the child now, if there is none."""
        if self._process is not None and self._process.poll() is None:
            return
        self._buffer = b""
        self._words.seek(0)
        self._words.truncate()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=dict(os.environ, **self._environment),
            bufsize=0,
        )

    def request(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises
        ------
        KernelError
            The answer is an error, or the child died or did not answer in time.
        """
        self.start()
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
        except OSError:
            raise self._lost("died") from None
        try:
            line = self._line(process.stdout.fileno(), timeout_s)
        except KeyboardInterrupt:
            self.end()  # or its answer would be taken for that to the next request
            raise
        answer = json.loads(line)
        if "error" in answer:
            raise KernelError(str(answer["error"]))
        return answer

    def end(self) -> int | None:
        """End the child; its exit code, negative for a signal that it died of."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def _line(self, descriptor: int, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            with selectors.DefaultSelector() as selector:
                selector.register(descriptor, selectors.EVENT_READ)
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._lost(f"did not answer within {timeout_s:g} s (see --timeout)")
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise self._lost("died")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _lost(self, what: str) -> KernelError:
        if what == "died" and self._process is not None:
            # One that dies by itself has a code worth telling: leave it a moment.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
        code = self.end()
        if what == "died" and code is not None:
            what = f"died with {_signal_name(-code)}" if code < 0 else f"died with exit code {code}"
        self._words.seek(0)
        words = self._words.read().decode(errors="replace").strip().splitlines()
        return KernelError(f"the kernel's process {what}" + (f": {words[-1][:200]}" if words else ""))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
