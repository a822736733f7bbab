"""The models of the coverage benchmark: how each is built, what it is fed, and which parts are pruned.

Detection models end in data-dependent post-processing, so their backbones and heads are taken one by
one; every other model is one part. Inputs are as small as an architecture allows.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.common import torchvision_models
from bench.coverage_timm import TIMM_MODELS

#: Left out for their size: all have smaller siblings of the same code in the list.
TORCHVISION_LEFT_OUT = (
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
    "regnet_y_128gf",
    "regnet_y_32gf",
    "regnet_x_32gf",
    "convnext_large",
    "efficientnet_v2_l",
    "wide_resnet101_2",
    "swin3d_b",
)

#: Input shapes by the longest prefix of a model's name; every other one gets ``IMAGE``.
IMAGE = (1, 3, 128, 128)
TORCHVISION_INPUTS: Mapping[str, tuple[int, ...]] = {
    "vit_": (1, 3, 224, 224),
    "swin_": (1, 3, 224, 224),
    "maxvit_": (1, 3, 224, 224),
    "inception_v3": (1, 3, 299, 299),  # its auxiliary head fits no smaller one
    "r3d_18": (1, 3, 8, 64, 64),
    "mc3_18": (1, 3, 8, 64, 64),
    "r2plus1d_18": (1, 3, 8, 64, 64),
    "s3d": (1, 3, 16, 224, 224),
    "swin3d_": (1, 3, 8, 112, 112),
    "mvit_": (1, 3, 8, 112, 112),
    "ssd300": (1, 3, 300, 300),
    "ssdlite320": (1, 3, 320, 320),
}
_OPTIONS: Mapping[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
}


@dataclass(frozen=True)
class Part:
    """A module that is captured and pruned as a whole; ``name`` is empty for a whole model."""

    name: str
    module: nn.Module
    inputs: tuple[torch.Tensor, ...]


class Listed(nn.Module):
    """A module that takes a list of tensors, or a dictionary of them, called with the tensors."""

    def __init__(self, module: nn.Module, keys: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.module = module
        self.keys = keys

    def forward(self, *tensors: torch.Tensor) -> Any:
        if self.keys:
            return self.module(dict(zip(self.keys, tensors, strict=True)))
        return self.module(list(tensors))


def names(zoo: str) -> tuple[str, ...]:
    """Every model of a zoo (``torchvision`` or ``timm``)."""
    if zoo == "timm":
        return tuple(TIMM_MODELS)
    listed = torchvision_models().list_models(exclude="quantized_*")
    return tuple(name for name in listed if name not in TORCHVISION_LEFT_OUT)


def build(zoo: str, name: str, prepare: Callable[[Part], None]) -> list[Part]:
    """The parts of one model, in evaluation mode.

    Parameters
    ----------
    prepare
        Called with the whole model (for detection models: with every part before the parts behind
        it are fed); it may change weights in place.
    """
    if zoo == "timm":
        return [_timm(name, prepare)]
    shape = _longest(TORCHVISION_INPUTS, name) or IMAGE
    options = _longest(_OPTIONS, name) or {}
    models = torchvision_models()
    kind = models.get_model_builder(name).__module__
    if "detection" in kind:
        model = models.get_model(name, weights=None, weights_backbone=None)
        return _detection(model.eval(), torch.randn(shape), prepare)
    if "segmentation" in kind:
        options = {"weights_backbone": None}
    if "mvit" in name:
        _shrink_mvit(TORCHVISION_INPUTS["mvit_"])
    model = models.get_model(name, weights=None, **options)
    images = 2 if "raft" in name else 1
    part = Part("", model.eval(), tuple(torch.randn(shape) for _ in range(images)))
    prepare(part)
    return [part]


def _shrink_mvit(shape: tuple[int, ...]) -> None:
    """Builders of MViT fix the size of their input; their common last step need not."""
    mvit = importlib.import_module("torchvision.models.video.mvit")
    build_any = mvit._mvit

    def smaller(*args: Any, **options: Any) -> nn.Module:
        return build_any(*args, **options | {"temporal_size": shape[2], "spatial_size": shape[3:]})

    mvit._mvit = smaller


def _timm(name: str, prepare: Callable[[Part], None]) -> Part:
    torchvision_models()
    import timm

    model = timm.create_model(name, pretrained=False)
    part = Part("", model.eval(), (torch.randn(1, *TIMM_MODELS[name]),))
    prepare(part)
    return part


def _longest(table: Mapping[str, Any], name: str) -> Any:
    found = [prefix for prefix in table if name.startswith(prefix)]
    return table[max(found, key=len)] if found else None


def _detection(model: nn.Module, image: torch.Tensor, prepare: Callable[[Part], None]) -> list[Part]:
    """Backbone, then the dense head or the region proposal head, then the heads of the regions."""
    backbone = Part("backbone", model.backbone, (image,))
    prepare(backbone)
    with torch.no_grad():
        features = model.backbone(image)
    maps = tuple(features.values())
    if not hasattr(model, "rpn"):
        head = Part("head", Listed(model.head), maps)
        prepare(head)
        return [backbone, head]
    regions = torch.randn(2, maps[0].shape[1], 7, 7)
    pixels = torch.randn(2, maps[0].shape[1], 14, 14)
    roi = model.roi_heads
    parts = [
        Part("rpn.head", Listed(model.rpn.head), maps),
        Part("roi_heads.box", nn.Sequential(roi.box_head, roi.box_predictor), (regions,)),
    ]
    for kind in ("mask", "keypoint"):
        if getattr(roi, f"{kind}_head", None) is not None:
            pair = getattr(roi, f"{kind}_head"), getattr(roi, f"{kind}_predictor")
            parts.append(Part(f"roi_heads.{kind}", nn.Sequential(*pair), (pixels,)))
    for part in parts:
        prepare(part)
        part.module.eval()
    return [backbone, *parts]
