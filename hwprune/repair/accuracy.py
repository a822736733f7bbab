"""Classification accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hwprune.errors import RepairError
from hwprune.importance.batches import device_of, logits_of, split_batch
from hwprune.importance.modes import in_mode


def evaluate_accuracy(model: nn.Module, loader: Iterable[Any]) -> float:
    """Share of the examples whose largest score is the labelled class, in ``[0, 1]``.

    The model runs in evaluation mode without gradients and gets its mode back.

    Raises
    ------
    RepairError
        The loader is empty or unlabelled, or the labels are not class numbers.
    """
    right, count = 0, 0
    device = device_of(model)
    with torch.no_grad(), in_mode(model, training=False):
        for raw in loader:
            batch = split_batch(raw, device=device)
            target = batch.target
            if not isinstance(target, torch.Tensor):
                raise RepairError(
                    "accuracy needs labels, and the loader yields none", hint="yield tuples (inputs, labels)"
                )
            predicted = logits_of(batch.run(model)).argmax(1)
            if target.is_floating_point() or target.shape != predicted.shape:
                raise RepairError(
                    f"labels of shape {tuple(target.shape)} and type {target.dtype} are not class numbers of "
                    f"shape {tuple(predicted.shape)}",
                    hint="use integer class labels, or evaluate with a function of your own",
                )
            right += int((predicted == target).sum())
            count += target.numel()
    if count == 0:
        raise RepairError("the data loader for the accuracy is empty", hint="pass a loader with data")
    return right / count
