"""Second derivatives of a loss in a model's outputs, as vectors to be pulled back to the gates.

With ``J`` the derivatives of an example's outputs in the gates and ``R = sum_k v_k v_k'`` the second
derivative of its loss in the outputs, ``sum_k (J' v_k) (J' v_k)'`` is the Gauss-Newton curvature. Where
a unit enters piecewise linearly and once, as with ReLU and pooling, its diagonal is that of the Hessian.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hwprune.errors import CriterionError, UsageError
from hwprune.importance.batches import Batch, logits_of
from hwprune.importance.data import batch_loss
from hwprune.importance.registry import Loss

#: Entries of all matrices of second derivatives of one batch that are decomposed.
_MOST_ENTRIES = 64 * 1000 * 1000


def slope_and_directions(
    model: torch.nn.Module,
    batch: Batch,
    loss: Loss | None,
    *,
    probes: int | None,
    generator: torch.Generator,
    criterion: str,
) -> Iterator[Tensor]:
    """The loss, then the outputs times each ``v_k``, all summed over the examples of a batch.

    Their derivatives per example are the example's slope and the factors of its curvature.

    Parameters
    ----------
    model, batch, loss
        The loss must be a mean over the examples.
    probes
        With more outputs than this, so many random combinations of the ``v_k``; None: all of them.
    generator
        Of the random signs.
    criterion
        Name for error messages.
    """
    # One forward pass for all: two graphs would take twice the memory.
    answer = _answer(model, batch, criterion)
    yield batch_loss(_Answer(answer), batch, loss, criterion=criterion) * max(batch.size, 1)
    outputs = logits_of(answer)
    # Scores at many positions have no root in one vector per class.
    whole = probes is None or (outputs[0].numel() <= probes and (outputs.ndim == 2 or loss is not None))
    count = None if whole else probes
    for vector in output_curvature(
        outputs, batch, loss, probes=count, generator=generator, criterion=criterion
    ):
        yield (outputs * vector).sum()


def output_curvature(
    outputs: Tensor,
    batch: Batch,
    loss: Loss | None,
    *,
    probes: int | None,
    generator: torch.Generator,
    criterion: str,
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
    criterion
        Name for error messages.

    Yields
    ------
    Tensor
        Of the shape of ``outputs``, detached.
    """
    detached = outputs.detach()
    if loss is None:
        yield from _of_cross_entropy(detached, probes, generator)
        return
    root = _root(detached, batch, loss, criterion)
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


def _root(outputs: Tensor, batch: Batch, loss: Loss, criterion: str) -> Tensor:
    """Square roots ``[examples, outputs, outputs]`` of the second derivatives of each example's loss."""
    size = outputs.shape[0]
    length = outputs[0].numel()
    if size * length**2 > _MOST_ENTRIES:
        raise CriterionError(
            f"criterion {criterion} cannot hold the second derivatives of a loss of one's own over "
            f"{length} outputs",
            hint="use sosp_h, a first-order form, or cross entropy",
        )
    free = outputs.flatten(1).double().requires_grad_()
    value = batch_loss(_Answer(free.view(outputs.shape)), batch, loss, criterion=criterion) * size
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
    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self._outputs = outputs

    def forward(self, *args: object, **kwargs: object) -> Any:
        return self._outputs


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return (2 * torch.randint(0, 2, shape, generator=generator) - 1).to(like)


def _answer(model: torch.nn.Module, batch: Batch, criterion: str) -> Any:
    """What the model returns for a batch, with its graph; errors as for losses.

    Raises
    ------
    CriterionError
        The model does not run on the batch, or its class scores are not finite.
    """
    found: list[Any] = []

    def keep(outputs: Any, _targets: object) -> Tensor:
        found.append(outputs)
        return logits_of(outputs).sum()

    batch_loss(model, batch, keep, criterion=criterion)
    return found[0]
