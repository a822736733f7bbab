"""The manifest of a latency table: where its numbers come from, and what its files must contain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from hwprune.artifact import read_json
from hwprune.errors import ArtifactError, TableError

MANIFEST_KIND = "hwprune-latency-table"
MANIFEST_VERSION = 2
MANIFEST_NAME = "manifest.json"
#: What two tables must share besides pipeline and unit for their rows to be comparable. The rest of
#: a target (its description, the way to the device) does not change what a kernel costs.
_TARGET_KEYS = ("name", "kind", "backend", "tvm", "isa", "threads", "pipeline")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SweepRecord(_Part):
    """Provenance of one sweep. Every row of a table names its sweep.

    Attributes
    ----------
    id
        Eight hex digits.
    command, git
        Command line, and state of the checkout (None for an installed package).
    versions
        Python, hwprune, TVM, LLVM, NumPy; ``driver`` is None where the device needs none. A version
        that nobody asked for is missing.
    seed
        Of the order of measurement.
    profile
        The measurement profile with all its criteria.
    started, ended
        UTC; a sweep that has not ended was cut off, or is still running.
    reached
        How the device was reached: runner, address, key.
    conditions
        The state of the machine meanwhile, as far as the system tells.
    """

    id: str
    command: str
    git: str | None
    versions: dict[str, str | None]
    seed: int
    profile: dict[str, Any]
    started: str
    ended: str | None = None
    reached: dict[str, str] = {}
    conditions: dict[str, Any] = {}


class MergeRecord(_Part):
    """One merge: when, by which command, and the checksums of the two ``table.csv``."""

    merged_at: str
    command: str
    sources: tuple[str, str]


class FileState(_Part):
    """The first ``size`` bytes of a file that only ever grows, and their SHA-256."""

    size: int
    sha256: str


class TableManifest(_Part):
    """Provenance of a table.

    ``sha256`` is that of ``table.csv``, ``samples`` the state of the raw samples' file when the table
    was last compacted. While the files are being replaced, ``next_sha256`` and ``next_samples``
    describe the new ones, so that a crash between the replacements leaves a table that still reads.
    """

    target: dict[str, Any]
    target_string: str
    device: dict[str, Any]
    system: str
    pipeline: str
    unit: Literal["ns", "instructions", "cycles"]
    provenance: Literal["measured", "emulated", "simulated", "estimated"]
    created: str
    updated: str
    sweeps: tuple[SweepRecord, ...]
    merges: tuple[MergeRecord, ...] = ()
    sha256: str = ""
    next_sha256: str | None = None
    samples: FileState | None = None
    next_samples: FileState | None = None

    @property
    def latest(self) -> SweepRecord:
        """The sweep that was begun last."""
        return max(self.sweeps, key=lambda sweep: sweep.started)

    def with_sweep(self, sweep: SweepRecord) -> TableManifest:
        """A copy in which a sweep is added, or replaces the one of the same id."""
        others = tuple(s for s in self.sweeps if s.id != sweep.id)
        return self.model_copy(update={"sweeps": (*others, sweep)})

    def differences(self, other: TableManifest) -> list[str]:
        """What keeps the rows of two tables apart, in words; empty if they may be mixed."""
        pairs: list[tuple[str, object, object]] = [
            ("pipeline", self.pipeline, other.pipeline),
            ("device", self.device.get("slug"), other.device.get("slug")),
            ("unit", self.unit, other.unit),
            ("kind", self.provenance, other.provenance),
        ]
        pairs += [
            (f"target {key}", _kept(self.target, key), _kept(other.target, key)) for key in _TARGET_KEYS
        ]
        return [f"{name}: {one} and {two}" for name, one, two in pairs if one != two]


def _kept(target: Mapping[str, Any], key: str) -> object:
    """A value of a target; of TVM's options without the cores it may use, which no kernel is made by."""
    value = target.get(key)
    if key == "tvm" and isinstance(value, Mapping):
        options = cast("Mapping[str, Any]", value)
        return {name: option for name, option in options.items() if name != "num-cores"}
    return value


def read_manifest(directory: Path) -> TableManifest:
    """The manifest of a table.

    Raises
    ------
    TableError
        No table there, its manifest is damaged, or of another version.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise TableError(f"no latency table at {directory}", hint="measure one: hwprune profile --help")
    try:
        return TableManifest.model_validate(read_json(path, MANIFEST_KIND, MANIFEST_VERSION))
    except ArtifactError as error:
        hint = error.hint
        if "older than version" in error.message:
            hint = f"delete {directory} (choices.json in it is still good) and run hwprune profile again"
        raise TableError(error.message, hint=hint) from error
    except ValidationError as error:
        raise TableError(f"{path}: {error}", hint="written by another version: profile again") from error


def target_string(tvm: Mapping[str, Any]) -> str:
    """A TVM target dictionary as one line: ``llvm -mcpu=skylake-avx512 -num-cores=2``."""
    options = [
        f"-{key}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for key, value in sorted(tvm.items())
        if key != "kind"
    ]
    return " ".join([str(tvm.get("kind", "")), *options])
