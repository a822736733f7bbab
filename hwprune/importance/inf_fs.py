"""Infinite feature selection: features ranked by all paths through the graph of their relations."""

from __future__ import annotations

import torch

from hwprune.errors import CriterionError

#: Examples below which rank correlations say nothing.
LEAST_EXAMPLES = 3


def affinity(features: torch.Tensor, *, mixing: float = 0.5) -> torch.Tensor:
    """How well two features complement each other, ``[m, m]``.

    ``mixing * max(sigma_i, sigma_j) + (1 - mixing) * (1 - |rank correlation|)`` (Roffo et al.,
    Infinite Feature Selection, ICCV 2015). Deviations are divided by the largest first, so that the
    features' unit does not matter; a constant feature correlates with nothing.

    Parameters
    ----------
    features
        ``[N, m]``, float64.

    Raises
    ------
    CriterionError
        Fewer than three examples.
    """
    if len(features) < LEAST_EXAMPLES:
        raise CriterionError(
            f"features of {len(features)} examples cannot be compared", hint="pass three examples or more"
        )
    spread = features.std(0)
    largest = spread.max()
    spread = spread / largest if largest > 0 else spread
    correlation = _correlation(_ranks(features)).abs()
    return mixing * torch.maximum(spread[:, None], spread[None, :]) + (1 - mixing) * (1 - correlation)


def infinite_paths(matrix: torch.Tensor, *, damping: float = 0.9) -> torch.Tensor:
    """Row sums of ``A + A^2 + A^3 + ...``, with ``A`` scaled to a spectral radius of ``damping``; ``[m]``.

    Parameters
    ----------
    matrix
        ``[m, m]``, symmetric and nonnegative.
    """
    radius = float(torch.linalg.eigvalsh(matrix).abs().max())
    if radius == 0.0:
        return torch.zeros(len(matrix), dtype=matrix.dtype)
    ones = torch.ones(len(matrix), 1, dtype=matrix.dtype)
    eye = torch.eye(len(matrix), dtype=matrix.dtype)
    return torch.linalg.solve(eye - damping / radius * matrix, ones)[:, 0] - 1.0


def inf_fs(features: torch.Tensor) -> torch.Tensor:
    """Scores ``[m]`` of features ``[N, m]``, positive, higher is better."""
    return infinite_paths(affinity(features.double()))


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks within every column, ties at their mean rank."""
    out = torch.empty_like(values)
    for column in range(values.shape[1]):
        _, inverse, counts = torch.unique(values[:, column], return_inverse=True, return_counts=True)
        last = counts.cumsum(0).to(values.dtype)
        out[:, column] = (last - (counts - 1) / 2.0)[inverse]
    return out


def _correlation(values: torch.Tensor) -> torch.Tensor:
    """Of the columns; zero where one is constant."""
    centred = values - values.mean(0)
    norm = centred.norm(dim=0)
    scaled = torch.where(norm > 0, centred / torch.where(norm > 0, norm, 1.0), 0.0)
    return (scaled.T @ scaled).clamp(-1.0, 1.0)
