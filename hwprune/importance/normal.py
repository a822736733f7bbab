"""Expectations of functions of normally distributed values, elementwise over vectors of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import torch

#: Beyond so many standard deviations there is nothing left to integrate in double precision.
_REACH = 9.0
_NODES = 64
_TINY = 1e-150


def absolute_mean(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """``E|x|`` of ``x ~ N(mean, std^2)``: the mean of the folded normal distribution."""
    t = mean / std.clamp_min(_TINY)
    return 2.0 * std * _density(t) + mean * torch.erf(t / math.sqrt(2.0))


def relu_mean(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """``E[max(x, 0)]`` of ``x ~ N(mean, std^2)``."""
    t = mean / std.clamp_min(_TINY)
    return (std * _density(t) + mean * torch.special.ndtr(t)).clamp_min(0.0)


def relu_second_moment(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """``E[max(x, 0)^2]`` of ``x ~ N(mean, std^2)``."""
    t = mean / std.clamp_min(_TINY)
    return ((mean**2 + std**2) * torch.special.ndtr(t) + mean * std * _density(t)).clamp_min(0.0)


def expected(
    function: Callable[[torch.Tensor], torch.Tensor],
    mean: torch.Tensor,
    std: torch.Tensor,
    kinks: Sequence[float] = (),
) -> torch.Tensor:
    """``E[function(x)]`` of ``x ~ N(mean, std^2)``, by Gauss-Legendre quadrature between the kinks.

    Gauss-Hermite nodes know nothing of kinks and lose digits there: with 32 of them the mean of
    ``|x|`` is wrong in the second digit.

    Parameters
    ----------
    function
        Elementwise.
    mean, std
        ``[n]``, float64; ``std`` is at least 0, and where it is 0 the value is ``function(mean)``.
    kinks
        Where the function or one of its derivatives jumps.

    Returns
    -------
    torch.Tensor
        ``[n]``, float64.
    """
    places, weights = _legendre()
    edges = [torch.full_like(mean, -_REACH)]
    edges += [((k - mean) / std.clamp_min(_TINY)).clamp(-_REACH, _REACH) for k in sorted(kinks)]
    edges.append(torch.full_like(mean, _REACH))
    total = torch.zeros_like(mean)
    for low, high in pairwise(edges):
        half = (high - low) / 2.0
        t = (low + half)[:, None] + half[:, None] * places.to(mean)
        values = function(mean[:, None] + std[:, None] * t)
        total = total + half * ((values * _density(t)) @ weights.to(mean))
    return total


def _density(t: torch.Tensor) -> torch.Tensor:
    return torch.exp(-0.5 * t * t) / math.sqrt(2.0 * math.pi)


@cache
def _legendre() -> tuple[torch.Tensor, torch.Tensor]:
    places, weights = np.polynomial.legendre.leggauss(_NODES)
    return torch.from_numpy(places), torch.from_numpy(weights)
