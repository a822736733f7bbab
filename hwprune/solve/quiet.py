"""Keeps native code off standard output, where only data may go.

HiGHS has messages that none of its options turns off. They are written by C code, so they must
be caught at the file descriptor.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import IO

_log = logging.getLogger(__name__)
_STDOUT = 1


class _Redirection:
    """File descriptor 1 belongs to the whole process: the first user diverts it, the last restores it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.saved = -1
        self.caught: IO[bytes] | None = None

    def enter(self) -> None:
        with self.lock:
            self.users += 1
            if self.users > 1:
                return
            try:
                _flush()
                self.caught = tempfile.TemporaryFile()  # noqa: SIM115 - closed in leave
                self.saved = os.dup(_STDOUT)
                os.dup2(self.caught.fileno(), _STDOUT)
            except OSError:  # no standard output, so nothing to keep clean
                self.saved = -1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users:
                return
            if self.saved >= 0:
                _flush()
                os.dup2(self.saved, _STDOUT)
                os.close(self.saved)
                self.saved = -1
            if self.caught is not None:
                self.caught.seek(0)
                text = self.caught.read().decode("utf-8", "replace").strip()
                self.caught.close()
                self.caught = None
                if text:
                    _log.debug("standard output of native code: %s", text)


_redirection = _Redirection()


@contextmanager
def quiet_stdout() -> Generator[None]:
    """Send what is written to file descriptor 1 to the log (level debug) instead.

    This holds for all threads of the process while the block runs. Blocks may nest and overlap.
    """
    _redirection.enter()
    try:
        yield
    finally:
        _redirection.leave()


def _flush() -> None:
    """Empty Python's and C's buffers, so that nothing lands on the wrong side of the switch."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    with suppress(OSError, TypeError, AttributeError):  # no C library by that name on this system
        ctypes.CDLL(None).fflush(None)
