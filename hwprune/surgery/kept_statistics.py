"""Normalisation over part of the channels at full size: the reference for pruned widths.

Each function computes the norm of the kept channels with a mask, not with slices, so that it
shares nothing with the cut graph that it is compared to. Values at removed channels mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Kept = Sequence[tuple[int, Tensor]]
"""Dimensions of the input, each with 1 at kept and 0 at removed positions."""


def layer_norm(
    kept: Kept,
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Tensor:
    """LayerNorm with the mean and variance of kept channels."""
    dims = list(range(x.dim() - len(shape), x.dim()))
    return _affine(_standardised(x, _mask(kept, x), dims, eps), weight, bias)


def rms_norm(
    kept: Kept, x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """RMSNorm with the mean square of kept channels."""
    dims = list(range(x.dim() - len(shape), x.dim()))
    mean = _mean(x * x, _mask(kept, x), dims)
    return _affine(x * (mean + (torch.finfo(x.dtype).eps if eps is None else eps)).rsqrt(), weight, None)


def group_norm(
    kept: Kept,
    x: Tensor,
    _groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Tensor:
    """GroupNorm with one group and the mean and variance of kept channels."""
    trail = (-1, *([1] * (x.dim() - 2)))
    return _affine(
        _standardised(x, _mask(kept, x), list(range(1, x.dim())), eps),
        None if weight is None else weight.view(trail),
        None if bias is None else bias.view(trail),
    )


REFERENCES: dict[str, Callable[..., Tensor]] = {
    "aten.layer_norm.default": layer_norm,
    "aten.rms_norm.default": rms_norm,
    "aten.group_norm.default": group_norm,
}


def _mask(kept: Kept, x: Tensor) -> Tensor:
    mask = torch.ones_like(x)
    for dim, flags in kept:
        mask = mask * flags.to(x.dtype).view(-1, *([1] * (x.dim() - dim - 1)))
    return mask


def _mean(values: Tensor, mask: Tensor, dims: list[int]) -> Tensor:
    # where: what stands at removed positions may be infinite.
    return torch.where(mask > 0, values, 0).sum(dims, keepdim=True) / mask.sum(dims, keepdim=True)


def _standardised(x: Tensor, mask: Tensor, dims: list[int], eps: float) -> Tensor:
    centred = x - _mean(x, mask, dims)
    return centred * (_mean(centred * centred, mask, dims) + eps).rsqrt()


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
