"""Compiled layers on tokens and windows equal PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwprune.delivery import compile_model
from hwprune.target import load_target

WIDTH = 24  # no whole number of SIMD blocks on most targets


class Windows(nn.Module):
    """Two layers on windows of a map, and one around them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 40), nn.Linear(40, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, h, w, c = x.shape
        windows = self.norm(x).reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        windows = self.down(torch.nn.functional.gelu(self.up(windows)))
        return x + windows.reshape(n, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(n, h, w, c)


class Tokens(nn.Module):
    """An encoder layer without attention; the first token leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, WIDTH)
        self.body = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return (x + self.body(x))[:, 0]


@pytest.mark.parametrize(("model", "shape"), [(Windows(), (2, 4, 6, WIDTH)), (Tokens(), (2, 7, 6))])
def test_compiled_tokens(model: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    target = load_target("host", threads=1)
    module, error = compile_model(model.eval(), (torch.randn(shape),), target, search=False)
    assert error < 1e-5
    assert not any("aten.linear" in kernel.label for kernel in module.kernels)
