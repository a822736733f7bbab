"""The directory that is carried to a device: what is in it, and how it is read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hwprune.artifact import read_json, sha256_file
from hwprune.errors import ArtifactError
from hwprune.latency.program import Program, Source
from hwprune.measure.carry.device.main import BUNDLE_FORMAT, BUNDLE_VERSION, MANIFEST
from hwprune.target import Target

_AGAIN = "copy the whole bundle again, or pack a new one"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Needs(_Strict):
    """What the device must have: architecture, processor flags, and as many cores as threads."""

    architecture: str
    flags: tuple[str, ...]
    threads: int


class PackedLibrary(_Strict):
    """A library and how to call it: physical shapes (float32), kernel calls in one run.

    ``expected`` are values of its output for the arguments that the script on the device gives it, as
    pairs of place and value; None where they are not known.
    """

    file: str
    inputs: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[int, ...], ...]
    copies: int
    expected: tuple[tuple[int, float], ...] | None = None


class PackedKernel(PackedLibrary):
    """A kernel: ``spec`` is its canonical text, ``choice`` the form that it was built in."""

    digest: str
    label: str
    spec: str
    choice: str


class PackedNetwork(PackedLibrary):
    """A whole network; ``digest`` is :func:`program_digest`."""

    name: str
    digest: str


class Unbuilt(_Strict):
    """A kernel that could not be built, and why."""

    digest: str
    label: str
    spec: str
    choice: str
    copies: int
    reason: str


class CarryManifest(_Strict):
    """``manifest.json`` of a carried bundle.

    ``pace`` is a small kernel whose time beside every sample tells how fast the core is just then
    (:mod:`hwprune.measure.pace`); None if it could not be built.
    ``files`` maps every other file to its SHA-256. ``profile`` is the care kernels are timed with,
    ``network_profile`` that of whole networks (see ``MeasureProfile``).
    """

    target: Target
    pipeline: str
    needs: Needs
    seed: int
    profile: dict[str, Any]
    network_profile: dict[str, Any]
    versions: dict[str, str | None]
    git: str | None
    command: str
    created: str
    sentinel: PackedKernel
    pace: PackedKernel | None
    kernels: tuple[PackedKernel, ...]
    unbuilt: tuple[Unbuilt, ...]
    networks: tuple[PackedNetwork, ...]
    files: dict[str, str]


@dataclass(frozen=True)
class CarryBundle:
    """A verified bundle. ``digest`` is the SHA-256 of its manifest, which results name."""

    directory: Path
    manifest: CarryManifest
    digest: str


def load_carry_bundle(directory: Path) -> CarryBundle:
    """Read a bundle and compare every file with its checksum.

    Raises
    ------
    ArtifactError
        Naming the file that is missing, unreadable or changed.
    """
    path = Path(directory) / MANIFEST
    try:
        manifest = CarryManifest.model_validate(read_json(path, BUNDLE_FORMAT, BUNDLE_VERSION))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{path} is not a valid manifest: {where}: {first['msg']}"
        raise ArtifactError(message, hint=_AGAIN) from error
    for name, expected in manifest.files.items():
        file = path.parent / name
        if not file.is_file():
            raise ArtifactError(f"{file} is missing from the bundle", hint=_AGAIN)
        if sha256_file(file) != expected:
            raise ArtifactError(f"{file} was changed after the bundle was packed", hint=_AGAIN)
    return CarryBundle(path.parent, manifest, sha256_file(path))


def program_digest(program: Program, choices: dict[str, str]) -> str:
    """What decides how long a network takes: its kernels, how they are linked, and their forms.

    Parameters
    ----------
    choices
        Label of the choice by kernel digest, for kernels that are not in their default form.
    """

    def linked(sources: Iterable[Source]) -> list[list[object]]:
        return [[source.kind, source.index] for source in sources]

    steps = [
        [step.spec.canonical(), linked(step.sources), choices.get(step.spec.digest(), "")]
        for step in program.steps
    ]
    whole = [list(map(list, program.input_shapes)), steps, linked(program.outputs)]
    text = json.dumps(whole, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
