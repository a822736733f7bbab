"""The optimizer of fine-tuning and its state under parameter names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hwprune.errors import RepairError
from hwprune.repair.options import FinetuneOptions


def build_optimizer(model: nn.Module, options: FinetuneOptions) -> torch.optim.Optimizer:
    """SGD or AdamW; vectors and scalars (norms, biases) get no weight decay.

    Raises
    ------
    RepairError
        No parameter of the model requires a gradient.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise RepairError(
            "no parameter of the model requires a gradient, so there is nothing to train",
            hint="call model.requires_grad_(True) first",
        )
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr)
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use this learning rate from now on."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's tensors as ``<parameter>//<key>``."""
    return {
        f"{name}//{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """The inverse of :func:`optimizer_tensors`."""
    parameters = dict(model.named_parameters())
    for full, value in tensors.items():
        name, key = full.rsplit("//", 1)
        # AdamW counts its steps in a tensor that stays on the CPU.
        device = value.device if key == "step" else parameters[name].device
        optimizer.state[parameters[name]][key] = value.to(device)
