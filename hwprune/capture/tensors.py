"""Parameters and buffers of a module under all their names."""

from __future__ import annotations

import torch
from torch import nn


def named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, then buffers; shared ones under each of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Their shapes."""
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(module).items()}


def of_same_kind(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """A tensor as a parameter where it takes the place of one."""
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
