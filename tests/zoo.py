"""Access to torchvision's model definitions beside a CPU build of torch."""

from bench.common import torchvision_models

__all__ = ["torchvision_models"]
