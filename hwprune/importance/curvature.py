"""Curvature of a loss over pairs of units, and the order in which a quadratic model removes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from hwprune.errors import CriterionError, UsageError
from hwprune.importance.batches import Batch, logits_of
from hwprune.importance.data import batch_loss
from hwprune.importance.registry import Loss

#: Above it, vectors are kept instead of their products.
MOST_BYTES = 2 << 30
#: Entries of all matrices of second derivatives of one batch that are decomposed.
_MOST_ENTRIES = 64 * 1000 * 1000


class Curvature:
    """Sum of ``a a'`` over vectors ``a`` of one entry per unit, in one matrix if it is small enough.

    Parameters
    ----------
    size
        Number of units.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._matrix = np.zeros((size, size)) if 8 * size**2 <= MOST_BYTES else None
        self._vectors: list[np.ndarray] = []
        self._joined: np.ndarray | None = None

    def add(self, vectors: np.ndarray) -> None:
        """More vectors, ``[count, size]``."""
        if self._matrix is not None:
            wide = vectors.astype(np.float64, copy=False)
            self._matrix += wide.T @ wide
        else:
            self._vectors.append(vectors.astype(np.float32).T)
            self._joined = None

    def column(self, unit: int) -> np.ndarray:
        """Sum of ``a a[unit]``, ``[size]``."""
        if self._matrix is not None:
            return self._matrix[:, unit]
        factor = self._factor()
        return (factor @ factor[unit]).astype(np.float64)

    def diagonal(self) -> np.ndarray:
        """Sum of squares, ``[size]``."""
        if self._matrix is not None:
            return self._matrix.diagonal().copy()
        return np.square(self._factor(), dtype=np.float64).sum(1)

    def _factor(self) -> np.ndarray:
        if self._joined is None:
            self._joined = np.concatenate(self._vectors, 1) if self._vectors else np.zeros((self.size, 1))
            self._vectors = [self._joined]
        return self._joined


def greedy_increments(
    slope: np.ndarray,
    column: Callable[[int], np.ndarray],
    diagonal: np.ndarray,
    *,
    cost: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Remove units one by one, always the one that raises ``sum slope + 1/2 sum sum H`` least.

    Parameters
    ----------
    slope
        Nonnegative linear term per unit, ``[size]``.
    column, diagonal
        Columns and diagonal of the curvature ``H``.
    cost
        What removing a unit saves: the rise is divided by it. Positive.

    Returns
    -------
    tuple
        The order of removal, and for each unit by how much the sum rose when it went. Over the first
        ``k`` units of the order these add up to the sum for that set.
    """
    # Q = H / 2 + diag(slope); removing s after the set M adds Q_ss + 2 sum of Q_sm over M.
    rise = slope + 0.5 * diagonal
    weight = np.ones_like(rise) if cost is None else cost
    going = np.ones(len(rise), dtype=bool)
    order = np.empty(len(rise), dtype=np.int64)
    increments = np.empty_like(rise)
    for place in range(len(rise)):
        unit = int(np.argmin(np.where(going, rise / weight, np.inf)))
        going[unit] = False
        order[place], increments[unit] = unit, rise[unit]
        rise = rise + column(unit)
    return order, increments


def output_curvature(
    outputs: Tensor, batch: Batch, loss: Loss | None, *, probes: int | None, generator: torch.Generator
) -> Iterator[Tensor]:
    """Roots of the second derivatives of each example's loss in its outputs: ``sum_k v_k v_k'`` are these.

    Parameters
    ----------
    outputs
        Class scores ``[examples, classes, ...]`` (any outputs ``[examples, ...]`` with a loss of one's
        own), with their graph.
    batch
        The batch that they belong to.
    loss
        None for cross entropy: then the second derivative is ``diag(p) - p p'``, with the square root
        ``diag(sqrt p) - p sqrt(p)'``. Otherwise it is taken from the loss, a mean over examples,
        and negative directions of it are left out.
    probes
        None: one vector per class. Otherwise that many random combinations of them, whose products are
        the second derivative on average.
    generator
        Of the random signs.

    Yields
    ------
    Tensor
        Of the shape of ``outputs``, detached.
    """
    detached = outputs.detach()
    if loss is None:
        yield from _of_cross_entropy(detached, probes, generator)
        return
    root = _root(detached, batch, loss)
    for number in range(root.shape[-1] if probes is None else probes):
        if probes is None:
            yield root[:, :, number].reshape(detached.shape)
            continue
        signs = _signs((root.shape[0], root.shape[-1], 1), detached, generator) / probes**0.5
        yield (root @ signs).reshape(detached.shape)


def _of_cross_entropy(outputs: Tensor, probes: int | None, generator: torch.Generator) -> Iterator[Tensor]:
    p = outputs.softmax(1)
    half = p.sqrt()
    # A loss that averages over positions counts each of them less.
    positions = outputs[0, 0].numel()
    if probes is None and positions > 1:
        raise UsageError(
            f"the class scores have {positions} positions per example", hint="give probes, such as 8"
        )
    for number in range(outputs.shape[1] if probes is None else probes):
        if probes is None:
            chosen = torch.zeros_like(outputs)
            chosen[:, number] = 1.0
        else:
            chosen = _signs(tuple(outputs.shape), outputs, generator) / probes**0.5
        product = half * chosen
        yield (product - p * product.sum(1, keepdim=True)) / positions**0.5


def _root(outputs: Tensor, batch: Batch, loss: Loss) -> Tensor:
    """Square roots ``[examples, outputs, outputs]`` of the second derivatives of each example's loss."""
    size = outputs.shape[0]
    length = outputs[0].numel()
    if size * length**2 > _MOST_ENTRIES:
        raise CriterionError(
            f"sosp_i cannot hold the second derivatives of a loss of one's own over {length} outputs",
            hint="use sosp_h, or cross entropy",
        )
    free = outputs.flatten(1).double().requires_grad_()
    value = batch_loss(_Answer(free.view(outputs.shape)), batch, loss, criterion="sosp_i") * size
    matrix = torch.zeros(size, length, length, dtype=torch.float64, device=outputs.device)
    if not value.requires_grad:
        return matrix.to(outputs.dtype)
    (slope,) = torch.autograd.grad(value, [free], create_graph=True, materialize_grads=True)
    for number in range(length if slope.requires_grad else 0):
        (row,) = torch.autograd.grad(
            slope[:, number].sum(), [free], retain_graph=True, materialize_grads=True
        )
        matrix[:, number] = row
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return (vectors * values.clamp_min(0).sqrt().unsqueeze(1)).to(outputs.dtype)


class _Answer(torch.nn.Module):
    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self._outputs = outputs

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        return self._outputs


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return (2 * torch.randint(0, 2, shape, generator=generator) - 1).to(like)


def outputs_of(model: torch.nn.Module, batch: Batch, criterion: str) -> Tensor:
    """Class scores of a batch, with their graph; errors as for losses.

    Raises
    ------
    CriterionError
        The model does not run on the batch, or its outputs are not finite.
    """

    found: list[Tensor] = []

    def keep(outputs: object, _targets: object) -> Tensor:
        found.append(logits_of(outputs))
        return found[0].sum()

    batch_loss(model, batch, keep, criterion=criterion)
    return found[0]
