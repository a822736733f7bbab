"""How much of a matrix's nuclear norm is due to each of its rows."""

from __future__ import annotations

import math

import torch

#: Step of the trapezoidal rule on a logarithmic axis: its error is exp(-pi^2 / step), 2e-11.
_STEP = 0.4
#: The integral runs from the least singular value times the first to the largest times the second.
_BELOW, _ABOVE = 1e-9, 1e4


def independence(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fall of the nuclear norm when each row is zeroed, for all rows at once.

    With singular values ``sigma`` and row ``c`` in the basis of right singular vectors, ``v_c``, a
    removed row subtracts ``v_c v_c'`` from ``diag(sigma^2)``. The trace of the square root as an
    integral, and the determinant of a rank-one change, give ::

        |A|_* - |A without row c|_* = 1/pi * integral_0^inf -log(1 - sum_i v_ci^2 / (sigma_i^2 + s^2)) ds,

    which costs one matrix product for all rows, where deleting them one by one costs as many
    decompositions. The integrand is smooth in ``log s`` and is summed by the trapezoidal rule.

    Parameters
    ----------
    matrix
        ``[B, C, L]``: several matrices of ``C`` rows.

    Returns
    -------
    tuple
        ``[B, C]``, float64, each between 0 and the norm of the row, and ``[B]``, the nuclear norms.
        They resolve about 1e-7 of a matrix's largest singular value, as anything from a Gram matrix
        does.
    """
    a = matrix.double()
    energy = a.square().sum(2)
    squared, values = _spectrum(a)
    total = values.sqrt().sum(1)
    largest = values.amax(1)
    out = torch.zeros_like(energy)
    live = largest > 0
    if bool(live.any()):
        out[live] = _integral(squared[live], values[live], energy[live])
    return torch.minimum(out.clamp_min(0.0), energy.sqrt()), total


def _spectrum(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squares of every row's coordinates ``[B, C, r]``, and the squared singular values ``[B, r]``."""
    wide = a.shape[2] >= a.shape[1]
    gram = a @ a.transpose(1, 2) if wide else a.transpose(1, 2) @ a
    values, vectors = torch.linalg.eigh(gram)
    # Below rounding there is nothing but noise: these directions count as absent.
    floor = values.shape[1] * torch.finfo(values.dtype).eps * values.amax(1, keepdim=True)
    values = torch.where(values > floor, values, 0.0)
    squared = vectors.square() * values[:, None, :] if wide else (a @ vectors).square()
    return torch.where(values[:, None, :] > 0, squared, 0.0), values


def _integral(squared: torch.Tensor, values: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
    least = float(torch.where(values > 0, values, math.inf).amin().sqrt()) * _BELOW
    most = float(values.amax().sqrt()) * _ABOVE
    count = math.ceil(math.log(most / least) / _STEP) + 1
    places = least * torch.exp(_STEP * torch.arange(count, dtype=values.dtype, device=values.device))
    # Absent directions have no coordinates, so that their denominators do not matter.
    kernel = 1.0 / (torch.where(values > 0, values, 1.0)[:, :, None] + places.square())
    share = (squared @ kernel).clamp_max(1.0 - torch.finfo(values.dtype).eps)
    total = -torch.log1p(-share) @ places * _STEP
    # Beyond the last place the integrand is |v|^2 / s^2, whose sum is geometric.
    tail = energy * (_STEP / (math.expm1(_STEP) * float(places[-1])))
    return (total + tail) / math.pi
