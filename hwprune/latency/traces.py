"""Schedules found by tuning, as files: ``traces/<content hash>.json`` beside ``choices.json``.

A file's name is the beginning of the SHA-256 of its text, so that a file that was cut short, edited
or exchanged is noticed, and one that two kernels share is stored once.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from hwprune.artifact import atomic_write_text
from hwprune.errors import TableError

TRACES_NAME = "traces"


def trace_id(text: str) -> str:
    """Twelve hex digits over a trace's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def trace_path(directory: Path, name: str) -> Path:
    """Where the trace of an id lies in a table's directory."""
    return Path(directory) / TRACES_NAME / f"{name}.json"


def save_trace(directory: Path, text: str) -> str:
    """Write a trace into a table's directory unless it is there already; its id."""
    name = trace_id(text)
    path = trace_path(directory, name)
    if not path.is_file() or path.read_text() != text:
        atomic_write_text(path, text)
    return name


def load_trace(directory: Path, name: str) -> str:
    """The text of a trace.

    Raises
    ------
    TableError
        The file is missing, or its content is not what its name says.
    """
    path = trace_path(directory, name)
    hint = "bring the file back, or delete choices.json and search again"
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(
            f"{path}, the schedule of a tuned kernel, cannot be read: {error}", hint=hint
        ) from error
    if trace_id(text) != name:
        raise TableError(
            f"{path}, the schedule of a tuned kernel, was changed: its content no longer gives its name",
            hint=hint,
        )
    return text
