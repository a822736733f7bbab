"""The smallest network that is worth pruning, its data, and factories that misbehave."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SHAPE = (1, 1, 8, 8)


class Small(nn.Module):
    """A residual block on 32 channels of 8x8, pooled, with a linear head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.b(self.a(x)) + x)
        return self.head(x.mean((2, 3)))


class Other(nn.Module):
    """Another network that takes the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 48, 3)
        self.head = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


class Undecided(nn.Module):
    """Cannot be exported: which way it goes depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x.relu() if x.sum() > 0 else x.neg()


class Frozen(nn.Module):
    """Nothing to prune: its only layer is its output."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def batches(count: int = 4, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Labelled batches: four quadrants of an image, one of them bright."""
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[Tensor, Tensor]] = []
    for _ in range(count):
        labels = torch.randint(0, 4, (16,), generator=generator)
        images = 0.3 * torch.randn(16, 1, 8, 8, generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            row, column = 4 * (label // 2), 4 * (label % 2)
            image[:, row : row + 4, column : column + 4] += 1.0
        found.append((images, labels))
    return found


def train() -> list[tuple[Tensor, Tensor]]:
    return batches(4, 0)


def evaluation() -> list[tuple[Tensor, Tensor]]:
    return batches(2, 1)


def broken() -> nn.Module:
    raise ValueError("the dog ate\nthe weights")


def needs_argument(width: int) -> nn.Module:
    return Small(width)


def number() -> Any:
    return 3
