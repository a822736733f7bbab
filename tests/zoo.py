"""Access to torchvision's model definitions beside a CPU build of torch."""

from __future__ import annotations

from types import ModuleType

import torch

_keep: list[torch.library.Library] = []


def torchvision_models() -> ModuleType:
    """``torchvision.models``; registers the two operators its compiled part would bring."""
    if not _keep:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _keep.append(library)
    import torchvision.models

    return torchvision.models
