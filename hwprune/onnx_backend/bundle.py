"""Bundles of this backend: an ``.onnx`` file that anyone can load, and how to run and time it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.artifact import atomic_directory
from hwprune.compile.bundle import (
    MANIFEST,
    Bundle,
    Manifest,
    load_bundle,
    read_manifest,
    require_place,
    sha256,
)
from hwprune.compile.vm_runtime import check_inputs
from hwprune.onnx_backend.session import make_session, run_session

MODEL = "model.onnx"
#: Oldest ONNX Runtime that reads the models' operator set.
RUNTIME = "onnxruntime>=1.22"


def write_onnx_bundle(model: bytes, manifest: Manifest, directory: Path) -> None:
    """Write a bundle; all of it or nothing. An older bundle in the same place is replaced.

    ``manifest`` says everything but the checksums of the files.

    Raises
    ------
    ArtifactError
        ``directory`` exists and is not a bundle, or cannot be written.
    """
    require_place(directory)
    with atomic_directory(directory, MANIFEST) as folder:
        (folder / MODEL).write_bytes(model)
        shutil.copyfile(Path(__file__).with_name("harness_run.py"), folder / "run.py")
        files = {p.name: sha256(p) for p in sorted(folder.iterdir())}
        full = manifest.model_copy(update={"files": files})
        (folder / MANIFEST).write_text(json.dumps(full.model_dump(mode="json"), indent=1) + "\n")


@dataclass(frozen=True)
class OnnxBundle:
    """A verified bundle on disk."""

    directory: Path
    manifest: Manifest

    @cached_property
    def _session(self) -> Any:
        return make_session(self.directory / MODEL, self.manifest.target.threads)

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run the network in this process; float32 arrays of the manifest's shapes.

        Raises
        ------
        UsageError
            Wrong number, shape or dtype of inputs.
        MissingExtraError
            onnxruntime is not installed.
        """
        check_inputs(inputs, [i.shape for i in self.manifest.inputs])
        return run_session(self._session, inputs)


def open_bundle(directory: Path) -> Bundle | OnnxBundle:
    """Read a bundle of either backend and verify every file's checksum.

    Raises
    ------
    ArtifactError
        Naming the file that is missing, unreadable or changed.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if manifest.target.backend == "onnxruntime":
        return OnnxBundle(directory, manifest)
    return load_bundle(directory)
