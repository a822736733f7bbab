"""A stand-in with live weights, for models in which some layers are still silent.

A head that starts at zero, a residual branch whose BatchNorm scale is zero or a layer scale of 1e-6
hides whatever happens before it: any cut of such a model would pass verification.
"""

from __future__ import annotations

import torch
from torch import nn

from hwprune.capture.captured import Captured
from hwprune.capture.copies import quiet_copy
from hwprune.capture.parametrized import plain_copy

_SILENT = 0.05  # a live weight times the square root of its fan-in is near one


def lively(captured: Captured) -> Captured | None:
    """The same model with random values in its silent weights, None if it has none.

    Model and graph of the result have the same values; ``captured`` is not changed.
    """
    values: dict[int, torch.Tensor] = {}
    names: dict[str, int] = {}
    generator = torch.Generator().manual_seed(7)
    plain = plain_copy(captured.model)  # has the names of the graph
    for name, parameter in plain.named_parameters(remove_duplicate=False):
        names[name] = id(parameter)
        if id(parameter) not in values and _is_silent(name, parameter):
            noise = torch.randn(parameter.shape, generator=generator) / _fan_in(parameter) ** 0.5
            # Away from zero: every channel of a scale has to be heard.
            values[id(parameter)] = torch.where(
                noise < 0, noise - 0.5 * noise.std(), noise + 0.5 * noise.std()
            )
    if not values:
        return None
    graph, model = quiet_copy(captured.graph), plain
    for module in (graph, model):
        _fill(module, {name: values[key] for name, key in names.items() if key in values})
    return Captured(graph, model, captured.example_inputs)


def _is_silent(name: str, parameter: torch.Tensor) -> bool:
    if name.endswith("bias") or parameter.numel() < 2 or not parameter.is_floating_point():
        return False
    rms = parameter.detach().float().square().mean().sqrt().item()
    return rms * _fan_in(parameter) ** 0.5 < _SILENT


def _fan_in(parameter: torch.Tensor) -> float:
    return parameter.numel() / parameter.shape[0] if parameter.dim() > 1 else 1.0


def _fill(module: nn.Module, values: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if name in values:
                parameter.copy_(values[name])
