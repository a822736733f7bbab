"""One writer at a time for a table's directory."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import IO

from hwprune.errors import MeasureError
from hwprune.latency.location import is_shipped

try:
    import fcntl
except ImportError:  # not a POSIX system: nobody keeps two sweeps apart there
    fcntl = None

LOCK_NAME = ".lock"
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def writing(directory: Path) -> Generator[None]:
    """Be the only writer of a table's directory, which is made if it is missing.

    Raises
    ------
    MeasureError
        Another process writes there, the directory cannot be made, or it belongs to the package.
    """
    lock = take_lock(Path(directory))
    try:
        yield
    finally:
        lock.close()


def take_lock(directory: Path) -> IO[str]:
    """Lock a table's directory until the returned file is closed; otherwise like :func:`writing`."""
    if is_shipped(directory):
        raise MeasureError(
            f"{directory} is a place of tables that come with hwprune, and nothing is written there",
            hint="measure into your own tables (HWPRUNE_TABLES or --tables name another place), then copy",
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return _acquire(directory / LOCK_NAME)
    except OSError as error:
        raise MeasureError(
            f"latency table {directory} cannot be written: {error.strerror or error}",
            hint="choose another place with the environment variable HWPRUNE_TABLES",
        ) from error


def _acquire(path: Path) -> IO[str]:
    """Lock a file for as long as it stays open.

    The kernel drops the lock when the process ends, however it ends: there are no stale locks.
    """
    handle = path.open("a+")
    if fcntl is None:
        _log.warning("no file locks on this system: run one sweep at a time")
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.seek(0)
        owner = handle.read().strip()
        handle.close()
        raise MeasureError(
            f"latency table {path.parent} is being written by process {owner or 'unknown'}",
            hint="wait until that sweep ends, or stop it; what it has measured is kept",
        ) from error
    with contextlib.suppress(OSError):
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
    return handle
