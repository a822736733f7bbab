"""A layer's weight fitted to wanted outputs by ridge regression, from sums or from the rows themselves."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from hwprune.importance.gram import Gram, contribution_gram
from hwprune.importance.rows import Rows

_log = logging.getLogger(__name__)

#: Outputs solved for at once: a wide classifier's weight in double precision is large.
_OUTPUTS = 512


@dataclass(frozen=True)
class Fit:
    """A fitted layer.

    Attributes
    ----------
    weight
        ``[groups, O, D]``: for each group of channels its outputs and inputs, in the weights' dtype.
    bias
        ``[groups, O]``, float64.
    before, after
        Mean squared error of the given and of the fitted weight, over the variance of the targets
        (0: the outputs are the wanted ones; 1: no better than their mean).
    """

    weight: torch.Tensor
    bias: torch.Tensor
    before: float
    after: float


@dataclass(frozen=True)
class Ridge:
    """How a fit is held back.

    Attributes
    ----------
    strength
        Weight of the penalty, relative to the mean variance of an input.
    towards_zero
        The penalty is on the weights themselves, not on their difference from the given ones.
    intercept
        Whether the bias is fitted too; if not, it stays.
    """

    strength: float = 1e-3
    towards_zero: bool = False
    intercept: bool = True


def fit_sums(gram: Gram, weight: torch.Tensor, bias: torch.Tensor, ridge: Ridge) -> Fit:
    """Fit by the normal equations: for layers with fewer inputs than there are rows.

    Minimises ``|Y - X W' - b|^2 + l |W - W0|^2`` with ``l = strength * trace(X'X) / D`` over
    centred rows (He, Zhang and Sun, ICCV 2017; the ridge is towards the weights ``W0`` that
    are there, so that what the data do not say stays as it was).

    Parameters
    ----------
    gram
        Sums over rows of inputs and of wanted outputs (bias included).
    weight, bias
        What the layer has: ``[groups, O, D]`` and ``[groups, O]``.
    ridge
        See :class:`Ridge`. With a strength of 0, a weight that the data do not determine changes
        as little as possible.
    """
    given, shift = weight.double(), bias.double()
    xx, xy, _ = gram.centred() if ridge.intercept else _about(gram, shift)
    columns = xx.shape[1]
    penalty = ridge.strength * xx.diagonal(dim1=1, dim2=2).sum(1) / columns
    solve = _factorised(xx, penalty)
    fitted = torch.empty_like(weight)
    for at in _blocks(weight.shape[1]):
        prior = given[:, at].transpose(1, 2)
        start = torch.zeros_like(prior) if ridge.towards_zero else prior
        fitted[:, at] = (start + solve(xy[:, :, at] - xx @ start)).transpose(1, 2).to(weight.dtype)
    moved = shift
    if ridge.intercept:
        mean_x, mean_y = gram.sum_x / gram.count, gram.sum_y / gram.count
        moved = mean_y - torch.einsum("god,gd->go", fitted.double(), mean_x)
    return Fit(fitted, moved, error_of(gram, given, shift), error_of(gram, fitted.double(), moved))


def fit_rows(rows: Rows, weight: torch.Tensor, bias: torch.Tensor, ridge: Ridge) -> Fit:
    """The same fit from the rows: for layers with more inputs than there are rows.

    Only a matrix of rows by rows is inverted. Without a penalty the smallest change is taken.
    """
    x, y = rows.x.transpose(0, 1).double(), rows.y.transpose(0, 1).double()
    mean_x, mean_y = x.mean(1), y.mean(1)
    if ridge.intercept:
        x = x - mean_x[:, None]
    kernel = x @ x.transpose(1, 2)
    penalty = ridge.strength * kernel.diagonal(dim1=1, dim2=2).sum(1) / x.shape[2]
    solve = _factorised(kernel, penalty)
    fitted, moved = torch.empty_like(weight), bias.double().clone()
    before = after = 0.0
    for at in _blocks(weight.shape[1]):
        prior = weight[:, at].double().transpose(1, 2)
        start = torch.zeros_like(prior) if ridge.towards_zero else prior
        wanted = y[:, :, at] - (mean_y[:, None, at] if ridge.intercept else moved[:, None, at])
        now = start + x.transpose(1, 2) @ solve(wanted - x @ start)
        fitted[:, at] = now.transpose(1, 2).to(weight.dtype)
        now = fitted[:, at].double().transpose(1, 2)
        after += float((wanted - x @ now).square().sum())
        error = wanted - x @ prior
        if ridge.intercept:
            offset = mean_y[:, at] - torch.einsum("gdo,gd->go", prior, mean_x)
            error = error + (offset - moved[:, at])[:, None]
            moved[:, at] = mean_y[:, at] - torch.einsum("gdo,gd->go", now, mean_x)
        before += float(error.square().sum())
    spread = max(float((y - mean_y[:, None]).square().sum()), 1e-300)
    return Fit(fitted, moved, before / spread, after / spread)


def fit_scales(gram: Gram, weight: torch.Tensor, bias: torch.Tensor, kernel: int, ridge: Ridge) -> Fit:
    """One factor per input channel, multiplied into the weight; the bias stays.

    The factors minimise the squared error of the outputs (Luo, Wu and Lin, ThiNet, ICCV 2017). The
    ridge is towards factors of 1 (or 0, ``towards_zero``), relative to the mean square of a channel's
    contribution.

    Parameters
    ----------
    kernel
        Columns of ``X`` that belong to one channel: ``k*k``.
    """
    given, shift = weight.double(), bias.double()
    xx, xy, _ = _about(gram, shift)
    fitted = given.clone()
    for number in range(len(given)):
        part = slice(number, number + 1)
        zz, zy = contribution_gram(xx[part], xy[part], given[part].flatten(0, 1), kernel)
        start = torch.zeros_like(zy) if ridge.towards_zero else torch.ones_like(zy)
        penalty = ridge.strength * zz.diagonal().sum()[None] / len(zz)
        factors = start + _factorised(zz[None], penalty)((zy - zz @ start)[None, :, None])[0, :, 0]
        fitted[number] *= factors.repeat_interleave(kernel)
    fitted = fitted.to(weight.dtype)
    return Fit(fitted, shift, error_of(gram, given, shift), error_of(gram, fitted.double(), shift))


def error_of(gram: Gram, weight: torch.Tensor, bias: torch.Tensor) -> float:
    """Mean squared error of a layer over the variance of the targets, from sums of rows.

    ``weight [groups, O, D]`` and ``bias [groups, O]`` in float64.
    """
    xx, xy, yy = gram.centred()
    spread = max(float(yy.sum()), 1e-300)
    explained = 0.0
    for at in _blocks(weight.shape[1]):
        part = weight[:, at].transpose(1, 2)
        explained += float((part * (2 * xy[:, :, at] - xx @ part)).sum())
    mean_x, mean_y = gram.sum_x / gram.count, gram.sum_y / gram.count
    offset = mean_y - torch.einsum("god,gd->go", weight, mean_x) - bias
    total = float(yy.sum()) - explained + gram.count * float(offset.square().sum())
    return max(total, 0.0) / spread


def _about(gram: Gram, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    """Sums for a bias that stays: targets are what is beyond it."""
    return gram.xx, gram.xy - gram.sum_x[:, :, None] * bias[:, None, :], None


def _blocks(outputs: int) -> list[slice]:
    return [slice(start, start + _OUTPUTS) for start in range(0, outputs, _OUTPUTS)]


class _factorised:
    """Solves ``(A + penalty I) Z = B`` for positive semidefinite ``A [groups, D, D]``.

    Where that is singular, the smallest solution of the least-squares problem is given.
    """

    def __init__(self, matrix: torch.Tensor, penalty: torch.Tensor) -> None:
        shifted = matrix.clone()
        shifted.diagonal(dim1=1, dim2=2).add_(penalty[:, None])
        self._lower, failed = torch.linalg.cholesky_ex(shifted)
        diagonal = self._lower.diagonal(dim1=1, dim2=2)
        size = shifted.diagonal(dim1=1, dim2=2).amax(1).sqrt()
        # A pivot that is all rounding says the same as a failure.
        singular = (failed > 0).any() or bool((diagonal.amin(1) <= 1e-7 * size).any())
        self._inverse: torch.Tensor | None = None
        if bool(singular):
            _log.info("a layer's inputs do not determine its weight: the smallest change is taken")
            self._inverse = torch.linalg.pinv(shifted, hermitian=True, rtol=1e-12)

    def __call__(self, right: torch.Tensor) -> torch.Tensor:
        return torch.cholesky_solve(right, self._lower) if self._inverse is None else self._inverse @ right
