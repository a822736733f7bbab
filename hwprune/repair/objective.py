"""What fine-tuning minimises: the task, the distillation from a teacher, or a mix."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hwprune.errors import RepairError
from hwprune.importance.batches import Batch, logits_of
from hwprune.importance.registry import Loss
from hwprune.repair.distill import distillation_loss
from hwprune.repair.options import FinetuneOptions


class Objective:
    """The loss of one batch.

    Parameters
    ----------
    options
        Label smoothing, ``distill_alpha`` and ``temperature``.
    loss
        Task loss; cross entropy of the class scores by default.
    teacher
        Model to distil from; the caller has put it in evaluation mode.
    """

    def __init__(self, options: FinetuneOptions, loss: Loss | None, teacher: nn.Module | None) -> None:
        self._options = options
        self._loss = loss
        self._teacher = teacher

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        outputs = batch.run(model)
        if self._teacher is None:
            if batch.target is None:
                raise RepairError(
                    "a training batch has no labels and there is no teacher",
                    hint="yield tuples (inputs, labels), or pass teacher= to distil from",
                )
            return self._task(outputs, batch.target)
        alpha = 1.0 if batch.target is None else self._options.distill_alpha
        if alpha == 0.0:
            return self._task(outputs, batch.target)
        with torch.no_grad():
            taught = logits_of(batch.run(self._teacher))
        distilled = distillation_loss(logits_of(outputs), taught, self._options.temperature)
        if alpha == 1.0:
            return distilled
        return (1.0 - alpha) * self._task(outputs, batch.target) + alpha * distilled

    def _task(self, outputs: Any, target: Any) -> torch.Tensor:
        if self._loss is not None:
            return self._loss(outputs, target)
        try:
            return F.cross_entropy(logits_of(outputs), target, label_smoothing=self._options.label_smoothing)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            shape = tuple(target.shape) if isinstance(target, torch.Tensor) else type(target).__name__
            raise RepairError(
                f"cross entropy of scores {tuple(logits_of(outputs).shape)} and labels {shape} "
                f"failed: {error}",
                hint="labels must be class numbers below the number of classes; else pass loss=",
            ) from error
