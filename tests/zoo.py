"""Access to torchvision's model definitions beside a CPU build of torch."""

from __future__ import annotations

from torch import nn

from bench.common import torchvision_models

__all__ = ["small_torchvision", "torchvision_models"]


def small_torchvision(name: str) -> nn.Module:
    """A model by name; of those that take seconds for more of the same, a smaller one of the same class.

    VGGs have fewer units in their head, DenseNets fewer layers in their blocks.
    """
    models = torchvision_models()
    if name.startswith("densenet"):
        return models.DenseNet(growth_rate=16, block_config=(3, 4, 4, 3), num_init_features=32)
    if not name.startswith("vgg"):
        return getattr(models, name)()
    layers, norm = {"vgg11_bn": ("A", True), "vgg16": ("D", False)}[name]
    features = models.vgg.make_layers(models.vgg.cfgs[layers], batch_norm=norm)
    model = models.vgg.VGG(features, init_weights=False)
    wide, units = 512 * 7 * 7, 64
    model.classifier = nn.Sequential(
        *(nn.Linear(wide, units), nn.ReLU(True), nn.Dropout()),
        *(nn.Linear(units, units), nn.ReLU(True), nn.Dropout(), nn.Linear(units, 1000)),
    )
    return model
