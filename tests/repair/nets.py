"""Small nets and data for the repair tests."""

from __future__ import annotations

import random

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Noisy(Dataset[tuple[torch.Tensor, int]]):
    """Two classes; augmentation draws from torch's and Python's global generators."""

    def __init__(self, count: int = 24) -> None:
        generator = torch.Generator().manual_seed(3)
        self.labels = torch.arange(count) % 2
        self.images = torch.randn(count, 1, 6, 6, generator=generator) + self.labels.view(-1, 1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = torch.randn(1, 6, 6) * 0.1 + random.gauss(0, 0.1)
        return self.images[index] + noise, int(self.labels[index])


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 2)
    )


def shuffled(*, own_generator: bool = False) -> DataLoader[tuple[torch.Tensor, int]]:
    generator = torch.Generator().manual_seed(7) if own_generator else None
    return DataLoader(Noisy(), batch_size=4, shuffle=True, generator=generator)


def fixed(count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    data = Noisy()
    return [(data.images[4 * i : 4 * i + 4], data.labels[4 * i : 4 * i + 4]) for i in range(count)]
