"""Where the measurements of a target on a device lie: latency table and searched choices."""

from __future__ import annotations

from pathlib import Path

from hwprune.artifact import atomic_write_bytes
from hwprune.latency.location import find_table, is_shipped, shipped_root, table_directory, tables_root
from hwprune.latency.manifest import MANIFEST_NAME
from hwprune.measure.backend import pipeline_hash
from hwprune.measure.device import device_slug
from hwprune.measure.lock import LOCK_NAME, writing
from hwprune.target import Target


def toolchain_directory(target: Target, tables: Path | None = None, slug: str | None = None) -> Path:
    """Directory of a target's table and choices for a device and this code generator.

    Parameters
    ----------
    tables
        Root of all tables; None: the user's cache directory, or a table that was shipped.
    slug
        Of the device; None: this machine.
    """
    pipeline, slug = pipeline_hash(target), slug or device_slug()
    if tables is not None:
        return tables / target.name / f"{slug}-{pipeline}-t{target.threads}"
    return find_table(target, pipeline, slug) or table_directory(target, pipeline, slug)


def own_directory(directory: Path) -> Path:
    """Where more is added to a table: itself, or for a shipped one a copy among the user's tables.

    Raises
    ------
    MeasureError
        The copy cannot be written, or somebody else is writing there.
    """
    if not is_shipped(directory):
        return directory
    directory = directory.resolve()
    own = tables_root() / directory.relative_to(shipped_root().resolve())
    with writing(own):
        if not (own / MANIFEST_NAME).is_file():
            # The manifest comes last: without it, the rest is no table.
            names = (p.relative_to(directory) for p in sorted(directory.rglob("*")) if p.is_file())
            for name in sorted(names, key=lambda name: name == Path(MANIFEST_NAME)):
                if name != Path(LOCK_NAME):
                    atomic_write_bytes(own / name, (directory / name).read_bytes())
    return own
