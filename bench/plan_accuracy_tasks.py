"""The tasks and networks of :mod:`bench.plan_accuracy`, small enough to be trained a hundred times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

#: Pixels per side of every image.
SIDE = 16
#: Motifs of the synthetic task; its classes are their ordered pairs.
MOTIFS = 5
#: Standard deviation of the noise over a synthetic image; motifs have 1.
NOISE = 0.6


@dataclass(frozen=True)
class Task:
    """Images ``[N, 1, 16, 16]`` with labels: for training, for judging plans, and for the result."""

    train: TensorDataset
    held_out: TensorDataset
    test: TensorDataset
    classes: int


def digits(seed: int) -> Task:
    """scikit-learn's handwritten digits: 1,797 real scans, 65 % / 15 % / 20 %."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1)
    images = functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    images = (images - 4.88) / 6.0
    labels = torch.tensor(found.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    parts = order.split([1168, 270, 359])
    return Task(*(TensorDataset(images[p], labels[p]) for p in parts), classes=10)


def synthetic(seed: int) -> Task:
    """Made-up images: which two of five motifs are there, and which of them is on the left.

    Motifs are the same for every seed; places, contrasts and noise are not.
    """
    sizes = (4000, 600, 1500)
    generator = torch.Generator().manual_seed(seed)
    parts = [_ordered_motifs(count, generator) for count in sizes]
    return Task(*parts, classes=MOTIFS * (MOTIFS - 1))


def _ordered_motifs(count: int, generator: torch.Generator) -> TensorDataset:
    motifs = torch.randn(MOTIFS, 5, 5, generator=torch.Generator().manual_seed(0))
    pairs = [(a, b) for a in range(MOTIFS) for b in range(MOTIFS) if a != b]
    labels = torch.randint(0, len(pairs), (count,), generator=generator)
    images = NOISE * torch.randn(count, 1, SIDE, SIDE, generator=generator)
    places = torch.rand(count, 3, generator=generator)
    contrasts = 0.6 + 0.8 * torch.rand(count, 2, generator=generator)
    for image, label, place, contrast in zip(images, labels.tolist(), places, contrasts, strict=True):
        left = int(place[0] * 6)
        right = left + 5 + int(place[1] * (SIDE - 9 - left))
        for motif, column, row, strength in zip(
            pairs[label], (left, right), (place[2], 1 - place[2]), contrast, strict=True
        ):
            top = int(row * (SIDE - 4))
            image[0, top : top + 5, column : column + 5] += strength * motifs[motif]
    return TensorDataset(images, labels)


TASKS = {"digits": digits, "synthetic": synthetic}


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3, stride)
        self.second = conv_bn(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class Inverted(nn.Module):
    """Expand, depthwise 3x3, project (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = conv_bn(inputs, hidden, 1)
        self.depthwise = conv_bn(hidden, hidden, 3, stride, groups=hidden)
        self.project = conv_bn(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(functional.relu6(self.depthwise(functional.relu6(self.expand(x)))))
        return x + y if self.residual else y


class Net(nn.Module):
    """Features, global pooling, linear head."""

    def __init__(self, features: nn.Sequential, channels: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def residual(classes: int) -> Net:
    """A stem and four residual blocks, two of them with identity shortcuts."""
    stem = [conv_bn(1, 64, 3, 2), nn.ReLU()]
    blocks = [Basic(64, 64, 1), Basic(64, 128, 2), Basic(128, 128, 1)]
    return Net(nn.Sequential(*stem, *blocks), 128, classes)


def plain(classes: int) -> Net:
    """Five 3x3 convolutions in a row (in the manner of VGG)."""
    layers: list[nn.Module] = []
    inputs = 1
    for outputs, stride in ((64, 2), (64, 1), (128, 2), (128, 1), (128, 1)):
        layers += [conv_bn(inputs, outputs, 3, stride), nn.ReLU()]
        inputs = outputs
    return Net(nn.Sequential(*layers), inputs, classes)


def separable(classes: int) -> Net:
    """Inverted residuals between a stem and a 1x1 convolution (in the manner of MobileNetV2)."""
    stem = [conv_bn(1, 32, 3, 2), nn.ReLU6()]
    blocks = [
        Inverted(32, 64, 1),
        Inverted(64, 64, 1),
        Inverted(64, 96, 2),
        Inverted(96, 96, 1),
        Inverted(96, 96, 1),
    ]
    last = [conv_bn(96, 256, 1), nn.ReLU6()]
    return Net(nn.Sequential(*stem, *blocks, *last), 256, classes)


def small(classes: int) -> Net:
    """A stem and one residual block of 16 channels: few enough units for every one to matter."""
    return Net(nn.Sequential(conv_bn(1, 16, 3, 2), nn.ReLU(), Basic(16, 16, 1)), 16, classes)


NETS = {"residual": residual, "plain": plain, "separable": separable, "small": small}
#: Those that are worth pruning.
PRUNED = ("residual", "plain", "separable")
