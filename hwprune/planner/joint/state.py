"""Everything that a search must remember to go on exactly where it stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hwprune.errors import ArtifactError, UsageError
from hwprune.planner.joint.options import JointOptions
from hwprune.planner.joint.space import Space
from hwprune.repair.checkpoint import load_checkpoint, part_of, prefixed, save_checkpoint
from hwprune.repair.optimizer import optimizer_tensors, restore_optimizer
from hwprune.repair.rng import RngState, from_tensors, set_rng_state, to_tensors
from hwprune.repair.state import copy_tensors, model_tensors
from hwprune.repair.stream import BatchStream


@dataclass
class SearchState:
    """A search between two steps of the weights; ``step`` counts those that are finished.

    Attributes
    ----------
    module
        Holds the shared weights.
    v, trail
        The vector, and all that it has been, one row per move.
    draws
        Source of perturbations.
    train, held_out
        Streams of batches.
    losses
        Mean training loss of every step.
    """

    options: JointOptions
    space: Space
    module: nn.Module
    optimizer: torch.optim.Optimizer
    train: BatchStream
    held_out: BatchStream
    draws: np.random.Generator
    v: np.ndarray
    rng: RngState
    step: int = 0
    trail: list[np.ndarray] = field(default_factory=list[np.ndarray])
    losses: list[float] = field(default_factory=list[float])

    def save(self, path: Path) -> None:
        """Write the search to a checkpoint file."""
        tensors = prefixed("weights", model_tensors(self.module))
        tensors |= prefixed("optimizer", optimizer_tensors(self.module, self.optimizer))
        tensors |= prefixed("rng", to_tensors(self.rng))
        for name, stream in self._streams().items():
            tensors |= prefixed(name, to_tensors(stream.pass_rng))
        tensors["v"] = torch.from_numpy(self.v.copy())
        tensors["trail"] = torch.from_numpy(np.array(self.trail).reshape(len(self.trail), len(self.v)))
        scalars: dict[str, Any] = {
            "step": self.step,
            "losses": self.losses,
            "draws": self.draws.bit_generator.state,
            "positions": {name: stream.position for name, stream in self._streams().items()},
            "options": self.options.model_dump(),
            "coordinates": self._coordinates(),
        }
        save_checkpoint(path, tensors, scalars)

    def load(self, path: Path) -> None:
        """Take up a search from a checkpoint file; changes the shared weights in place.

        Raises
        ------
        ArtifactError
            The file is damaged.
        UsageError
            It was written with other options or for other widths, blocks or resolutions.
        RepairError
            It is of another model.
        """
        tensors, scalars = load_checkpoint(path)
        try:
            self._check(path, scalars)
            copy_tensors(self.module, part_of("weights", tensors), source=f"the checkpoint {path}")
            restore_optimizer(self.module, self.optimizer, part_of("optimizer", tensors))
            self.v, self.trail = tensors["v"].numpy(), list(tensors["trail"].numpy())
            self.step, self.losses = scalars["step"], list(scalars["losses"])
            self.draws.bit_generator.state = scalars["draws"]
            for name, stream in self._streams().items():
                stream.seek(from_tensors(part_of(name, tensors)), scalars["positions"][name])
            self.rng = from_tensors(part_of("rng", tensors))
        except KeyError as error:
            raise ArtifactError(
                f"the checkpoint {path} lacks {error}", hint="delete it to start the search again"
            ) from error
        set_rng_state(self.rng)

    def _streams(self) -> dict[str, BatchStream]:
        return {"train": self.train, "held_out": self.held_out}

    def _coordinates(self) -> list[list[Any]]:
        return [[c.kind, c.name, list(c.levels)] for c in self.space.coordinates]

    def _check(self, path: Path, scalars: dict[str, Any]) -> None:
        hint = "repeat the search as it was, or use another checkpoint path to start again"
        now, saved = self.options.model_dump(), scalars["options"]
        changed = [f"{key} ({saved.get(key)!r} -> {now[key]!r})" for key in now if saved.get(key) != now[key]]
        if changed:
            what = ", ".join(changed)
            raise UsageError(f"the checkpoint {path} was written with other options: {what}", hint=hint)
        own, other = self._coordinates(), scalars["coordinates"]
        if own != other:
            names = sorted({c[1] for c in own if c not in other} | {c[1] for c in other if c not in own})
            what = ", ".join(names[:5])
            raise UsageError(f"the checkpoint {path} is of another search: {what} differ", hint=hint)
