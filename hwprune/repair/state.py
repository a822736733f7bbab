"""Everything that a training run must remember to go on exactly where it stopped."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwprune.errors import ArtifactError, RepairError
from hwprune.repair.checkpoint import load_checkpoint, part_of, prefixed, save_checkpoint
from hwprune.repair.optimizer import optimizer_tensors, restore_optimizer
from hwprune.repair.options import FinetuneOptions
from hwprune.repair.progress import EpochRecord
from hwprune.repair.rng import RngState, from_tensors, set_rng_state, to_tensors
from hwprune.repair.stream import BatchStream


@dataclass
class TrainingState:
    """A run at a step boundary; ``epoch`` and ``step`` count what is finished."""

    options: FinetuneOptions
    model: nn.Module
    optimizer: torch.optim.Optimizer
    stream: BatchStream
    rng: RngState
    epoch: int = 0
    step: int = 0
    epoch_loss: float = 0.0
    epoch_steps: int = 0
    history: list[EpochRecord] = field(default_factory=list[EpochRecord])
    initial_metric: float | None = None
    best_metric: float | None = None
    best_epoch: int | None = None
    best: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])

    def save(self, path: Path) -> None:
        """Write the run to a checkpoint file."""
        tensors = prefixed("model", model_tensors(self.model))
        tensors |= prefixed("optimizer", optimizer_tensors(self.model, self.optimizer))
        tensors |= prefixed("rng", to_tensors(self.rng))
        tensors |= prefixed("pass_rng", to_tensors(self.stream.pass_rng))
        tensors |= prefixed("best", self.best)
        scalars: dict[str, Any] = {name: getattr(self, name) for name in _SCALARS}
        scalars["options"] = self.options.model_dump()
        scalars["history"] = [dataclasses.asdict(record) for record in self.history]
        scalars["position"] = self.stream.position
        save_checkpoint(path, tensors, scalars)

    def load(self, path: Path) -> None:
        """Take up a run from a checkpoint file; changes the model in place.

        Raises
        ------
        ArtifactError
            The file is damaged.
        RepairError
            The checkpoint belongs to another model or other options.
        """
        tensors, scalars = load_checkpoint(path)
        try:
            self._check_options(path, scalars["options"])
            copy_tensors(self.model, part_of("model", tensors), source=f"the checkpoint {path}")
            restore_optimizer(self.model, self.optimizer, part_of("optimizer", tensors))
            self.best = part_of("best", tensors)
            self.history = [EpochRecord(**record) for record in scalars["history"]]
            for name in _SCALARS:
                setattr(self, name, scalars[name])
            self.rng = from_tensors(part_of("rng", tensors))
            self.stream.seek(from_tensors(part_of("pass_rng", tensors)), scalars["position"])
        except KeyError as error:
            raise ArtifactError(
                f"the checkpoint {path} lacks {error}", hint="delete it to start the training again"
            ) from error
        set_rng_state(self.rng)

    def _check_options(self, path: Path, saved: dict[str, Any]) -> None:
        now = self.options.model_dump()
        changed = [f"{key} ({saved.get(key)!r} -> {now[key]!r})" for key in now if saved.get(key) != now[key]]
        if changed:
            raise RepairError(
                f"the checkpoint {path} was written with other options: {', '.join(changed)}",
                hint="use the same options to resume, or another checkpoint path to start again",
            )


_SCALARS = ("epoch", "step", "epoch_loss", "epoch_steps", "initial_metric", "best_metric", "best_epoch")


def model_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers (non-persistent ones too), each shared one once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def copy_tensors(model: nn.Module, values: dict[str, torch.Tensor], *, source: str) -> None:
    """Write values into the model's parameters and buffers, which must agree in names and shapes."""
    own = model_tensors(model)
    wrong = sorted(own.keys() ^ values.keys())
    wrong += [name for name in own if name in values and own[name].shape != values[name].shape]
    if wrong:
        raise RepairError(
            f"{source} is of another model: {', '.join(wrong[:5])} differ",
            hint="resume with the same pruned model, or use another checkpoint path to start again",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(values[name])
