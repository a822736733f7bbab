"""Models for code generation benchmarks: random weights, but as alive as trained ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from bench.common import torchvision_models
from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.measure.compare import max_relative_error
from hwprune.planner.widths import group_widths
from hwprune.surgery import prune_model
from hwprune.target import Target

MODELS = (
    "resnet18",
    "resnet50",
    "vgg16",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "densenet121",
    "regnet_y_400mf",
    "convnext_tiny",
)


def make(name: str, seed: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A torchvision model in evaluation mode, and its input: 1x3x224x224.

    Fresh weights let signals die out or explode where nothing was learned, and layer scales of
    1e-6 silence whole branches; then an error could hide, and denormal numbers would be timed.
    So statistics of BatchNorm are taken from random data, and layer scales are of the order of 1.
    """
    torch.manual_seed(seed)
    model: nn.Module = getattr(torchvision_models(), name)()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("layer_scale"):
                value.uniform_(0.2, 1.0)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the statistics become those of the next batch
            norm.weight.uniform_(0.7, 1.3)
            norm.bias.normal_(0.0, 0.1)
        if norms:
            model.train()(torch.randn(4, 3, 224, 224))
    return model.eval(), (torch.randn(1, 3, 224, 224),)


def prune_randomly(
    model: nn.Module, inputs: Sequence[torch.Tensor], target: Target, seed: int
) -> nn.Module | None:
    """The model at random aligned widths; None where no channel of it can be pruned."""
    captured = capture(model, tuple(inputs))
    deps = analyse(captured)
    if not deps.groups:
        return None
    generator = np.random.default_rng(seed)
    widths = group_widths(deps, captured.graph.graph, target)
    keep: dict[str, tuple[int, ...]] = {}
    for group in deps.groups:
        width = int(generator.choice(widths[group.name].widths))
        keep[group.name] = tuple(sorted(int(u) for u in generator.permutation(group.size)[:width]))
    return prune_model(captured, deps, keep)[0].eval()


def float64_error(model: nn.Module, inputs: Sequence[torch.Tensor], outputs: Sequence[np.ndarray]) -> float:
    """Largest difference from PyTorch in float64, relative to the largest output."""
    with torch.no_grad():
        result = copy.deepcopy(model).double()(*[x.double() for x in inputs])
    expected = list(result) if isinstance(result, tuple | list) else [result]
    return max_relative_error(outputs, [t.numpy() for t in expected])
