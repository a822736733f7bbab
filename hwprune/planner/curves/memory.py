"""Losses that were measured before, on disk, so that a calibration can be interrupted."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from hwprune.artifact import read_json, write_json
from hwprune.errors import UsageError

_log = logging.getLogger(__name__)
KIND = "hwprune.calibration"
VERSION = 3
#: Version 2 knew no repair but the measuring of BatchNorm statistics.
OLDEST = 2
#: Calibrations that a file remembers: one per order of units (criterion), model and data.
KEPT = 8


class Memory:
    """Losses by name, of one model on one set of batches.

    Parameters
    ----------
    path
        A JSON file, written after every loss; None keeps nothing. It holds the losses of the last few
        calibrations (:data:`KEPT`), each a number per group and width that was measured.
    key
        What the losses depend on, see :func:`digest`. Those of other keys are left alone.
    repair
        What was done to a model before its loss was taken, in one word; empty where BatchNorm statistics
        alone were measured again. All losses of a file are after the same repair.

    Raises
    ------
    ArtifactError
        The file is something else, or damaged.
    UsageError
        Its losses were taken after another repair.
    """

    def __init__(self, path: Path | None, key: str, repair: str = "") -> None:
        self._path, self._key, self._repair = path, key, repair
        self._losses: dict[str, float] = {}
        self._others: list[dict[str, Any]] = []
        if path is None or not path.is_file():
            return
        for entry in read_json(path, KIND, VERSION, oldest=OLDEST)["calibrations"]:
            other = entry.get("repair", "")
            if other != repair:
                raise UsageError(
                    f"the checkpoint {path} holds losses {_after(other)}, and they are asked for"
                    f" {_after(repair)}",
                    hint="name another file, delete this one, or ask for the repair that it was made with",
                )
            if entry["key"] == key:
                self._losses = {n: math.inf if v is None else float(v) for n, v in entry["losses"].items()}
            else:
                self._others.append(entry)
        if not self._losses:
            _log.info("%s knows nothing of this model, data and repair: calibrated anew", path)

    def get(self, name: str) -> float | None:
        """A loss measured before."""
        return self._losses.get(name)

    def put(self, name: str, loss: float) -> None:
        """Keep a loss."""
        self._losses[name] = loss
        if self._path is not None:
            losses = {n: value if math.isfinite(value) else None for n, value in self._losses.items()}
            own = {"key": self._key, "repair": self._repair, "losses": losses}
            # The last one used stands last; the first ones are forgotten.
            entries = [*self._others, own][-KEPT:]
            write_json(self._path, KIND, VERSION, {"calibrations": entries})


def _after(repair: str) -> str:
    return f"after the repair {repair}" if repair else "after BatchNorm statistics alone were measured again"


def digest(tensors: Iterable[torch.Tensor], facts: Mapping[str, str]) -> str:
    """What a loss depends on, as a short text: values of tensors (weights, data), and whatever else."""
    found = hashlib.sha256(repr(sorted(facts.items())).encode())
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous()
        found.update(f"{tuple(flat.shape)}{flat.dtype}".encode())
        found.update(flat.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
