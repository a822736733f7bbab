"""One file with tensors and scalars, written whole or not at all, and without pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hwprune.artifact import atomic_write_bytes
from hwprune.errors import ArtifactError

FORMAT = "hwprune-checkpoint"
VERSION = 1


def save_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], scalars: Mapping[str, Any]) -> None:
    """Write a checkpoint: a safetensors file whose header carries the scalars as JSON.

    The file appears under its name only when it is complete, so an interrupted write leaves the
    previous checkpoint.

    Raises
    ------
    ArtifactError
        The directory cannot be written, or the disk is full.
    """
    # Clones: safetensors refuses tensors that share memory (tied weights).
    plain = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    text = json.dumps(dict(scalars), sort_keys=True)
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "sha256": digest_of(plain, text),
        "scalars": text,
    }
    atomic_write_bytes(path, save(plain, metadata=header))


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a checkpoint back: its tensors (on the CPU) and its scalars.

    Raises
    ------
    ArtifactError
        The file is missing, truncated, changed, or of another format or version.
    """
    hint = "delete it to start again, or give the path of another checkpoint"
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ArtifactError(f"there is no checkpoint at {path}", hint="check the path") from None
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"the checkpoint {path} cannot be read: {error}", hint=hint) from error
    if header.get("format") != FORMAT or header.get("version") != str(VERSION):
        found = f"{header.get('format')} version {header.get('version')}"
        raise ArtifactError(
            f"{path} is not a checkpoint of format {FORMAT} version {VERSION} but {found}", hint=hint
        )
    text = header.get("scalars", "")
    if header.get("sha256") != digest_of(tensors, text):
        raise ArtifactError(f"the checkpoint {path} does not match its checksum", hint=hint)
    return tensors, json.loads(text)


def digest_of(tensors: Mapping[str, torch.Tensor], text: str = "") -> str:
    """SHA-256 of contiguous tensors on the CPU, with their names, and a text."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as one part of a checkpoint."""
    return {f"{prefix}:{name}": value for name, value in tensors.items()}


def part_of(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The part of a checkpoint's tensors that :func:`prefixed` made."""
    start = f"{prefix}:"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
