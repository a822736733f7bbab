"""Normalisation over part of the channels at full size: the reference for pruned widths.

Each function computes the norm of the kept channels with a mask, not with slices, so that it
shares nothing with the cut graph that it is compared to. Values at removed channels mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hwprune.importance.weighted import WEIGHTED

Kept = Sequence[tuple[int, Tensor]]
"""Dimensions of the input, each with 1 at kept and 0 at removed positions."""


def _of_kept(weighted: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reference(kept: Kept, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        mask = _mask(kept, x)
        # What stands at removed positions may be infinite, and must not meet a weight of 0.
        return weighted(mask, torch.where(mask > 0, x, 0), *args, **kwargs)

    reference.__name__ = weighted.__name__  # a graph that calls it can be read
    return reference


REFERENCES: dict[str, Callable[..., Tensor]] = {name: _of_kept(each) for name, each in WEIGHTED.items()}
"""By operator: the same over kept channels, which are its first argument."""


def _mask(kept: Kept, x: Tensor) -> Tensor:
    mask = torch.ones_like(x)
    for dim, flags in kept:
        mask = mask * flags.to(x.dtype).view(-1, *([1] * (x.dim() - dim - 1)))
    return mask
