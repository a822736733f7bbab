"""Bundles: a compiled module as a directory that runs without hwprune and without ``tvm``."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.numpy import load_file, save

from hwprune.artifact import atomic_directory
from hwprune.compile.link import host_architecture, target_architecture
from hwprune.compile.vm_runtime import VirtualMachine, check_inputs, runtime_library
from hwprune.errors import ArtifactError
from hwprune.target import Target, require_runnable

MANIFEST = "manifest.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorInfo(_Strict):
    """Shape and dtype of an input or output."""

    shape: tuple[int, ...]
    dtype: Literal["float32"] = "float32"


class KernelInfo(_Strict):
    """One step of the network. ``choice`` says in which form its kernel was built."""

    name: str
    label: str
    digest: str
    flops: int
    choice: str = "default"


class Manifest(_Strict):
    """``manifest.json`` of a bundle.

    ``runtime`` is where the runtime comes from: ``bundled`` in the directory, or a package to
    install on the device: ONNX Runtime for a target of that backend, TVM's where the bundle was made
    on a machine of another architecture.
    """

    format: Literal[1] = 1
    kind: Literal["hwprune-bundle"] = "hwprune-bundle"
    target: Target
    pipeline: str
    architecture: str = ""
    runtime: str = "bundled"
    versions: dict[str, str]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    kernels: tuple[KernelInfo, ...]
    files: dict[str, str]
    provenance: dict[str, Any]


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def installed_version(package: str) -> str:
    """Version of a package; ``unknown`` where it runs from a checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class Parts:
    """What a bundle is made of. ``weights`` are physical arrays in the order of ``main``."""

    library: Path
    weights: Sequence[np.ndarray]
    target: Target
    pipeline: str
    input_shapes: Sequence[tuple[int, ...]]
    output_shapes: Sequence[tuple[int, ...]]
    kernels: Sequence[KernelInfo]
    provenance: dict[str, Any]


def write_bundle(parts: Parts, directory: Path) -> None:
    """Write a bundle; all of it or nothing. An older bundle in the same place is replaced.

    Raises
    ------
    ArtifactError
        ``directory`` exists and is not a bundle, or cannot be written.
    """
    require_place(directory)
    with atomic_directory(directory, MANIFEST) as folder:
        _fill(parts, folder)


def require_place(directory: Path) -> None:
    """Refuse a directory for a bundle that holds something else.

    Raises
    ------
    ArtifactError
        ``directory`` exists and is not a bundle.
    """
    if directory.exists() and not _is_bundle(directory):
        raise ArtifactError(
            f"{directory} exists and is not a bundle", hint="name a new directory, or remove this one"
        )


def _is_bundle(directory: Path) -> bool:
    try:
        return json.loads((directory / MANIFEST).read_text()).get("kind") == "hwprune-bundle"
    except (OSError, ValueError, AttributeError):
        return False


def _fill(parts: Parts, folder: Path) -> None:
    shutil.copyfile(parts.library, folder / "model.so")
    names = [f"{i:05d}" for i in range(len(parts.weights))]
    (folder / "weights.safetensors").write_bytes(save(dict(zip(names, parts.weights, strict=True))))
    shutil.copyfile(Path(__file__).with_name("harness_run.py"), folder / "run.py")
    architecture = target_architecture(parts.target.tvm.get("mtriple"))
    foreign = architecture != host_architecture()
    if not foreign:
        shutil.copyfile(runtime_library(), folder / "libtvm_runtime.so")
    manifest = Manifest(
        target=parts.target,
        pipeline=parts.pipeline,
        architecture=architecture,
        runtime=f"apache-tvm=={installed_version('apache-tvm')}" if foreign else "bundled",
        versions={
            "hwprune": installed_version("hwprune"),
            "tvm": installed_version("apache-tvm"),
            "tvm_ffi": installed_version("apache-tvm-ffi"),
        },
        inputs=tuple(TensorInfo(shape=s) for s in parts.input_shapes),
        outputs=tuple(TensorInfo(shape=s) for s in parts.output_shapes),
        kernels=tuple(parts.kernels),
        files={p.name: sha256(p) for p in sorted(folder.iterdir())},
        provenance=parts.provenance,
    )
    (folder / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    directory: Path
    manifest: Manifest

    @cached_property
    def _machine(self) -> VirtualMachine:
        require_runnable(self.manifest.target)
        weights = load_file(self.directory / "weights.safetensors")
        ordered: Sequence[np.ndarray] = [weights[name] for name in sorted(weights)]
        return VirtualMachine(self.directory / "model.so", ordered, self.manifest.target.threads)

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run the network in this process; float32 arrays of the manifest's shapes.

        Raises
        ------
        UsageError
            Wrong number, shape or dtype of inputs.
        TargetError
            This machine lacks the target's instructions.
        """
        check_inputs(inputs, [i.shape for i in self.manifest.inputs])
        return self._machine.run(inputs)


def load_bundle(directory: Path) -> Bundle:
    """Read a bundle of a TVM module and verify every file's checksum.

    Raises
    ------
    ArtifactError
        Naming the file that is missing, unreadable or changed.
    """
    return Bundle(Path(directory), read_manifest(Path(directory)))


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a bundle, whatever runs it, after verifying every file's checksum.

    Raises
    ------
    ArtifactError
        Naming the file that is missing, unreadable or changed.
    """
    path = directory / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_text())
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}", hint="is this a bundle?") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{path} is not a valid manifest: {where}: {first['msg']}") from error
    for name, expected in manifest.files.items():
        if "/" in name or not (directory / name).is_file():
            raise ArtifactError(f"{directory / name} is missing", hint="copy the whole bundle again")
        if sha256(directory / name) != expected:
            raise ArtifactError(
                f"{directory / name} does not match its checksum in {MANIFEST}",
                hint="the file was edited or truncated: copy or build the bundle again",
            )
    return manifest
