"""Small networks with residual blocks and concatenations, wide enough for aligned widths."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.nets import conv_bn

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Branch(nn.Module):
    """``relu(x + f(x))``, or without the ReLU."""

    def __init__(self, channels: int, inside: int, act: bool = True) -> None:
        super().__init__()
        self.a = conv_bn(channels, inside)
        self.b = nn.Conv2d(inside, channels, 3, padding=1)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.b(self.a(x))
        return functional.relu(y) if self.act else y


class Blocks(nn.Module):
    """Two blocks that can be left out, and one whose ReLU would stay without it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 32)
        self.one, self.two = Branch(32, 48), Branch(32, 64)
        self.bare = nn.Conv2d(32, 32, 1)
        self.three = Branch(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.three(self.bare(self.two(self.one(self.stem(x))))).mean((2, 3)))


class Inverted(nn.Module):
    """Linear bottlenecks with dropout in their branches, as in MobileNets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.branches = nn.ModuleList(
            nn.Sequential(
                conv_bn(16, 48, 1), conv_bn(48, 48, groups=48), nn.Conv2d(48, 16, 1), nn.Dropout(0.1)
            )
            for _ in range(3)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x.mean((2, 3)))


class Nested(nn.Module):
    """A block around a block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 32)
        self.into, self.inner, self.back = conv_bn(32, 32), Branch(32, 32, act=False), nn.Conv2d(32, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.back(self.inner(self.into(x)))).mean((2, 3)))


class Doubled(nn.Module):
    """``x + (x + f(x))``: without the inner block the outer sum is another kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 32)
        self.inner = Branch(32, 32, act=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.inner(x)).mean((2, 3)))


class Growing(nn.Module):
    """Every layer reads what all before it have made: a dense block."""

    def __init__(self, layers: int = 7) -> None:
        super().__init__()
        self.stem = conv_bn(3, 32)
        self.layers = nn.ModuleList(conv_bn(32 + 32 * n, 32) for n in range(layers))
        self.head = nn.Linear(32 + 32 * layers, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.head(torch.cat(features, 1).mean((2, 3)))
