"""Where the measurements of a target on a device lie: latency table and searched choices."""

from __future__ import annotations

from pathlib import Path

from hwprune.compile import pipeline_hash
from hwprune.latency.location import find_table, table_directory
from hwprune.measure.device import device_slug
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
