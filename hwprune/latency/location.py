"""Where latency tables lie: the user's own, and those that are shipped."""

from __future__ import annotations

import os
from pathlib import Path

from hwprune.latency.manifest import MANIFEST_NAME
from hwprune.target import Target


def tables_root() -> Path:
    """Directory of the tables measured on this machine.

    ``HWPRUNE_TABLES`` if set, else ``hwprune/latency_tables`` in the user's cache directory
    (``XDG_CACHE_HOME`` or ``~/.cache``).
    """
    chosen = os.environ.get("HWPRUNE_TABLES")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "hwprune" / "latency_tables"


def shipped_root() -> Path:
    """Directory of the read-only tables that come with the package."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_latency_tables"
    return installed if installed.is_dir() else package.parent / "latency_tables"


def is_shipped(directory: Path) -> bool:
    """Whether a directory belongs to the package, so that nothing may be written there."""
    return directory.resolve().is_relative_to(shipped_root().resolve())


def relative_directory(target: Target, pipeline: str, device_slug: str) -> Path:
    """Where a table lies below the root of all tables."""
    return Path(target.name) / f"{device_slug}-{pipeline}-t{target.threads}"


def table_directory(target: Target, pipeline: str, device_slug: str) -> Path:
    """Where the table of a target, pipeline hash and device is written."""
    return tables_root() / relative_directory(target, pipeline, device_slug)


def find_table(target: Target, pipeline: str, device_slug: str) -> Path | None:
    """The table of a target if there is one: the user's own goes before a shipped one."""
    for root in (tables_root(), shipped_root()):
        directory = root / relative_directory(target, pipeline, device_slug)
        if (directory / MANIFEST_NAME).is_file():
            return directory
    return None
