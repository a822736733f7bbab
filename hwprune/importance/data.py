"""The batches that a criterion sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hwprune.errors import CriterionError
from hwprune.importance.batches import Batch, logits_of, split_batch
from hwprune.importance.registry import Loss


class CriterionData:
    """At most ``limit`` batches of a loader, split, moved to the model's device, and checked."""

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        criterion: str,
        limit: int,
        labelled: bool,
        device: torch.device | None,
    ) -> None:
        self._loader = loader
        self._criterion = criterion
        self._limit = limit
        self._labelled = labelled
        self._device = device

    def __iter__(self) -> Iterator[Batch]:
        seen = 0
        for raw in self._loader:
            batch = split_batch(raw, device=self._device)
            if self._labelled and batch.target is None:
                raise CriterionError(
                    f"criterion {self._criterion} needs labels, and batch {seen} of the loader has none",
                    hint="yield tuples (inputs, labels), or use a criterion without labels",
                )
            yield batch
            seen += 1
            if seen == self._limit:
                return
        if seen == 0:
            raise CriterionError(
                f"the data loader for criterion {self._criterion} is empty", hint="pass a loader with data"
            )


def batch_loss(model: nn.Module, batch: Batch, loss: Loss | None, *, criterion: str) -> torch.Tensor:
    """Loss of one batch (cross entropy by default), with errors that say where it went wrong.

    Raises
    ------
    CriterionError
        The model does not run on the batch, the loss is no scalar, or it is not finite.
    """
    try:
        outputs = batch.run(model)
        value = (
            F.cross_entropy(logits_of(outputs), batch.target) if loss is None else loss(outputs, batch.target)
        )
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        shapes = [
            tuple(v.shape) for v in (*batch.inputs, *batch.named.values()) if isinstance(v, torch.Tensor)
        ]
        reason = str(error).strip().split("\n", 1)[0]
        raise CriterionError(
            f"criterion {criterion} cannot compute the loss of a batch with inputs of shape {shapes}: "
            f"{reason}",
            hint="the data must fit the example inputs, and labels the loss (cross entropy by default)",
        ) from error
    if value.numel() != 1:
        raise CriterionError(
            f"the loss has shape {tuple(value.shape)}", hint="return a scalar, e.g. its mean"
        )
    if not bool(torch.isfinite(value)):
        raise CriterionError(
            f"the loss is {float(value.detach())} on a batch for criterion {criterion}",
            hint="look for NaN or infinite values in the data and the weights",
        )
    return value.reshape(())
