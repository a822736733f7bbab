"""Random weights that are as alive as trained ones, so that no error can hide.

Fresh weights let signals die out, layer scales of 1e-6 and zeroed heads silence whole branches, and a
vector of equal numbers looks the same whichever of its entries are removed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_BATCH = 4


def enliven(model: nn.Module, inputs: Sequence[torch.Tensor], seed: int) -> None:
    """Change the weights of ``model`` in place; it is left in evaluation mode.

    Every parameter whose entries are all equal gets random ones of the same order (layer scales of
    the order of one), and the statistics of BatchNorm are taken from random data.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.is_floating_point() and value.numel() > 1 and bool((value == value.flatten()[0]).all()):
                value.copy_(_random(name, value, generator))
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if norms:
        _settle(model, inputs, norms, generator)
    model.eval()


def _random(name: str, value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    constant = float(value.flatten()[0])
    if constant == 0 and value.dim() > 1 and value.shape[0] > 1:
        return torch.randn(value.shape, generator=generator) / (value[0].numel() ** 0.5)
    noise = torch.rand(value.shape, generator=generator)
    if constant == 0:
        return 0.2 * (noise - 0.5) if not name.endswith("weight") else 0.7 + 0.6 * noise
    if abs(constant) < 0.05:
        return 0.2 + 0.8 * noise
    return constant * (0.7 + 0.6 * noise)


def _settle(
    model: nn.Module,
    inputs: Sequence[torch.Tensor],
    norms: Sequence[_BatchNorm],
    generator: torch.Generator,
) -> None:
    """One pass in training mode whose statistics BatchNorm keeps."""
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the statistics become those of this batch
    batch = [torch.randn((_BATCH, *x.shape[1:]), generator=generator) for x in inputs]
    with torch.no_grad():
        model.train()(*batch)
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum
            assert norm.running_var is not None
            # A channel that is nearly constant on four inputs would be blown up on others.
            norm.running_var.clamp_(min=0.05 * float(norm.running_var.mean()) + 1e-4)
