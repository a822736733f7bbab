"""Kernels that a plan asked for and a device's table lacks: what the next bundle should hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hwprune.artifact import read_json, write_json
from hwprune.errors import ArtifactError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.rows import OK
from hwprune.latency.table import LatencyTable

WANTED_NAME = "wanted.json"
WANTED_KIND = "hwprune-wanted-kernels"
WANTED_VERSION = 1


def lacking(specs: Iterable[KernelSpec], table: LatencyTable, *, untrusted: bool) -> list[KernelSpec]:
    """Kernels without a time that can be relied on, each once; ``untrusted`` accepts disturbed ones."""
    found: dict[str, KernelSpec] = {}
    for spec in specs:
        row = table.get(spec)
        if row is None or row.failure is not None or (row.status != OK and not untrusted):
            found.setdefault(spec.digest(), spec)
    return list(found.values())


def read_wanted(directory: Path) -> list[KernelSpec]:
    """Kernels that were asked for, in a table's directory; none if there is no file.

    Raises
    ------
    ArtifactError
        The file is damaged or was edited.
    """
    path = directory / WANTED_NAME
    if not path.is_file():
        return []
    data = read_json(path, WANTED_KIND, WANTED_VERSION)
    try:
        return [KernelSpec.parse(text) for text in data["kernels"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: {error}", hint="delete the file and make the plan again") from error


def write_wanted(directory: Path, specs: Sequence[KernelSpec]) -> None:
    """Replace what is asked for."""
    texts = sorted({spec.canonical() for spec in specs})
    path = directory / WANTED_NAME
    if not texts:
        path.unlink(missing_ok=True)
    else:
        write_json(path, WANTED_KIND, WANTED_VERSION, {"kernels": texts})
