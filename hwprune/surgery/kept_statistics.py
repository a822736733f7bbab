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


def mean(
    kept: Kept, x: Tensor, dims: int | Sequence[int], keepdim: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """Mean of kept channels; reduced dimensions stay as one position."""
    assert keepdim
    x = x if dtype is None else x.to(dtype)
    return _mean(x, _mask(kept, x), _list(dims))


def var(
    kept: Kept, x: Tensor, dims: int | Sequence[int], *, correction: float = 1, keepdim: bool = False
) -> Tensor:
    """Variance of kept channels; reduced dimensions stay as one position."""
    assert keepdim
    mask, dims = _mask(kept, x), _list(dims)
    squares = (x - _mean(x, mask, dims)).square()
    return _mean(squares, mask, dims) * _ratio(mask.sum(dims, keepdim=True), correction)


def var_dim(
    kept: Kept, x: Tensor, dims: int | Sequence[int], unbiased: bool = True, keepdim: bool = False
) -> Tensor:
    """The older form of :func:`var`."""
    return var(kept, x, dims, correction=int(unbiased), keepdim=keepdim)


def _ratio(count: Tensor, correction: float) -> Tensor:
    return count / (count - correction).clamp_min(0)


def amax(kept: Kept, x: Tensor, dims: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """Largest kept value."""
    return torch.where(_mask(kept, x) > 0, x, -torch.inf).amax(_list(dims), keepdim=keepdim)


def amin(kept: Kept, x: Tensor, dims: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """Smallest kept value."""
    return torch.where(_mask(kept, x) > 0, x, torch.inf).amin(_list(dims), keepdim=keepdim)


def _list(dims: int | Sequence[int]) -> list[int]:
    return [dims] if isinstance(dims, int) else list(dims)


REFERENCES: dict[str, Callable[..., Tensor]] = {
    "aten.layer_norm.default": layer_norm,
    "aten.rms_norm.default": rms_norm,
    "aten.group_norm.default": group_norm,
    "aten.mean.dim": mean,
    "aten.var.correction": var,
    "aten.var.dim": var_dim,
    "aten.amax.default": amax,
    "aten.amin.default": amin,
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
