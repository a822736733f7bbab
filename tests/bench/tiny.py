"""A network and a task that benchmarks get through in seconds."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from bench.plan_accuracy_tasks import SIDE, Net, Task, conv_bn


def tiny_net(classes: int) -> Net:
    """Two convolutions."""
    layers = [conv_bn(1, 32, 3, 4), nn.ReLU(), conv_bn(32, 32, 3), nn.ReLU()]
    return Net(nn.Sequential(*layers), 32, classes)


def tiny_task(seed: int) -> Task:
    """Two classes of noise, one brighter than the other."""
    generator = torch.Generator().manual_seed(seed)

    def part(count: int) -> TensorDataset:
        labels = torch.arange(count) % 2
        images = torch.randn(count, 1, SIDE, SIDE, generator=generator)
        return TensorDataset(images + labels[:, None, None, None], labels)

    return Task(part(64), part(20), part(40), classes=2)
