"""Losses that were measured before, on disk, so that a calibration can be interrupted."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from hwprune.artifact import read_json, write_json

_log = logging.getLogger(__name__)
KIND = "hwprune.calibration"
VERSION = 1


class Memory:
    """Losses by name, of one model on one set of batches.

    Parameters
    ----------
    path
        A JSON file, written after every loss; None keeps nothing.
    key
        What the losses depend on, see :func:`digest`. Losses of another key are forgotten.

    Raises
    ------
    ArtifactError
        The file is something else, or damaged.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._key = path, key
        self._losses: dict[str, float] = {}
        if path is not None and path.is_file():
            payload = read_json(path, KIND, VERSION)
            if payload["key"] == key:
                losses = payload["losses"]
                self._losses = {n: math.inf if v is None else float(v) for n, v in losses.items()}
            else:
                _log.info("%s is of another model, data or repair: calibrated anew", path)

    def get(self, name: str) -> float | None:
        """A loss measured before."""
        return self._losses.get(name)

    def put(self, name: str, loss: float) -> None:
        """Keep a loss."""
        self._losses[name] = loss
        if self._path is not None:
            losses = {n: value if math.isfinite(value) else None for n, value in self._losses.items()}
            write_json(self._path, KIND, VERSION, {"key": self._key, "losses": losses})


def digest(tensors: Iterable[torch.Tensor], facts: Mapping[str, str]) -> str:
    """What a loss depends on, as a short text: values of tensors (weights, data), and whatever else."""
    found = hashlib.sha256(repr(sorted(facts.items())).encode())
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous()
        found.update(f"{tuple(flat.shape)}{flat.dtype}".encode())
        found.update(flat.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
