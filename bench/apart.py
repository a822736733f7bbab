"""Work in a process of its own, so that its memory is its own, and nobody else's end."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def in_process(work: Callable[..., Row], *arguments: Any, limit_s: float) -> Row:
    """What ``work`` gives in a new process, which is ended after ``limit_s``; then ``{"error": why}``."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, arguments, writer))
    process.start()
    writer.close()
    try:
        if not reader.poll(limit_s):
            return {"error": f"not done after {limit_s:g} s"}
        return reader.recv()
    except EOFError:
        return {"error": "the process died; it may have run out of memory"}
    finally:
        process.kill()
        process.join()


def _child(work: Callable[..., Row], arguments: tuple[Any, ...], writer: Connection) -> None:
    writer.send(work(*arguments))


def memory_mb(key: str) -> float:
    """Resident memory of this process now (``VmRSS``) or at most so far (``VmHWM``).

    The peak that ``getrusage`` gives includes the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
