"""A transformer of one block, and how the tests of criteria of activations look at models."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwprune.capture import capture
from hwprune.capture.captured import Captured
from hwprune.dependency import Dependencies, analyse


class Block(nn.Module):
    """Patches, attention with four heads of four channels, MLP; embedding of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.first = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.second = nn.LayerNorm(16)
        self.up = nn.Linear(16, 24)
        self.down = nn.Linear(24, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.first(x)).reshape(x.shape[0], -1, 3, 4, 4).permute(2, 0, 3, 1, 4)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.down(functional.gelu(self.up(self.second(x))))
        return self.head(x.mean(1))


def analysed(model: nn.Module, shape: tuple[int, ...] = (4, 3, 8, 8)) -> tuple[Captured, Dependencies]:
    captured = capture(model.double().eval(), torch.randn(shape, dtype=torch.float64))
    return captured, analyse(captured)


def images(count: int = 6, seed: int = 0, shape: tuple[int, ...] = (3, 8, 8)) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
