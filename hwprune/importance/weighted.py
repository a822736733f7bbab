"""Statistics across channels in which a channel may count less: means, variances, norms.

With a weight of 0 a channel does not count, as if it were cut away; with weights of 1 these are the
operators themselves. In between they are smooth, so that they can be differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def layer_norm(
    weights: Tensor,
    x: Tensor,
    shape: Sequence[int],
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Tensor:
    """LayerNorm with a weighted mean and variance over the last dimensions."""
    return _affine(_standardised(x, weights, _last(x, shape), eps), scale, shift)


def rms_norm(
    weights: Tensor, x: Tensor, shape: Sequence[int], scale: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """RMSNorm with a weighted mean square."""
    square = _mean(x * x, weights, _last(x, shape))
    return _affine(x * (square + (torch.finfo(x.dtype).eps if eps is None else eps)).rsqrt(), scale, None)


def group_norm(
    weights: Tensor,
    x: Tensor,
    _groups: int,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Tensor:
    """GroupNorm with one group."""
    trail = (-1, *([1] * (x.dim() - 2)))
    scale, shift = (None if v is None else v.view(trail) for v in (scale, shift))
    return _affine(_standardised(x, weights, list(range(1, x.dim())), eps), scale, shift)


def mean(
    weights: Tensor, x: Tensor, dims: int | Sequence[int], keepdim: bool = False, *, dtype: object = None
) -> Tensor:
    """Weighted mean."""
    x = x.to(dtype) if isinstance(dtype, torch.dtype) else x
    found = _mean(x, weights, _dims(dims))
    return found if keepdim else found.squeeze(_dims(dims))


def var(
    weights: Tensor, x: Tensor, dims: int | Sequence[int], *, correction: float = 1, keepdim: bool = False
) -> Tensor:
    """Weighted variance; the weights count as numbers of values."""
    over = _dims(dims)
    found = _mean((x - _mean(x, weights, over)).square(), weights, over)
    count = weights.expand_as(x).sum(over, keepdim=True)
    found = found * count / (count - correction).clamp_min(0)
    return found if keepdim else found.squeeze(over)


def var_dim(
    weights: Tensor, x: Tensor, dims: int | Sequence[int], unbiased: bool = True, keepdim: bool = False
) -> Tensor:
    """The older form of :func:`var`."""
    return var(weights, x, dims, correction=int(unbiased), keepdim=keepdim)


def amax(weights: Tensor, x: Tensor, dims: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """Largest value of those that count at all."""
    return torch.where(weights > 0, x, -torch.inf).amax(_dims(dims), keepdim=keepdim)


def amin(weights: Tensor, x: Tensor, dims: int | Sequence[int], keepdim: bool = False) -> Tensor:
    """Smallest value of those that count at all."""
    return torch.where(weights > 0, x, torch.inf).amin(_dims(dims), keepdim=keepdim)


WEIGHTED: dict[str, Callable[..., Tensor]] = {
    "aten.layer_norm.default": layer_norm,
    "aten.rms_norm.default": rms_norm,
    "aten.group_norm.default": group_norm,
    "aten.mean.dim": mean,
    "aten.var.correction": var,
    "aten.var.dim": var_dim,
    "aten.amax.default": amax,
    "aten.amin.default": amin,
}
"""By operator: the same with weights, which are broadcast against the input, as its first argument."""


def _dims(dims: int | Sequence[int]) -> list[int]:
    return [dims] if isinstance(dims, int) else list(dims)


def _last(x: Tensor, shape: Sequence[int]) -> list[int]:
    return list(range(x.dim() - len(shape), x.dim()))


def _mean(values: Tensor, weights: Tensor, dims: list[int]) -> Tensor:
    return (values * weights).sum(dims, keepdim=True) / weights.expand_as(values).sum(dims, keepdim=True)


def _standardised(x: Tensor, weights: Tensor, dims: list[int], eps: float) -> Tensor:
    centred = x - _mean(x, weights, dims)
    return centred * (_mean(centred * centred, weights, dims) + eps).rsqrt()


def _affine(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    x = x if scale is None else x * scale
    return x if shift is None else x + shift
