"""Shares of the signal that reaches a neuron."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import CriterionError, UsageError
from hwprune.importance.batches import Batch
from hwprune.importance.readers import Moment, Reader, by_unit, stream_readers
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.rows import inputs_at, spots_of
from hwprune.importance.values import warn_if_all_alike

Aggregate = Literal["norm", "sum"]
#: Entries of what kernels see that are held at a time.
_CHUNK = 1 << 22


@register
class Relief(Criterion):
    """Share of the mean absolute signal that a unit supplies, summed over the neurons that read it.

    For every output of every layer that reads the unit, the mean over the examples of ``|w x|`` (for
    a convolution aggregated over positions) is divided by the sum over all inputs and the bias.

    Parameters
    ----------
    alpha
        ``None``: all shares count. A number in (0, 1]: of every neuron, only the smallest set of
        inputs that carries this fraction counts (the paper's rule for connections; 0.95 there); a
        unit of which no connection is left scores 0.
    aggregate
        Over positions of a convolution: ``"norm"``, the Frobenius norm (the authors' VGG and
        ResNet), or ``"sum"`` (their LeNet). Tokens of a linear layer are positions, too.

    Notes
    -----
    The paper removes single connections and retrains; ours is the form for whole units. Groups that
    no convolution and no linear layer reads are scored by the root mean squares of their
    activations; this is logged.
    """

    name: ClassVar[str] = "relief"
    data_need: ClassVar[DataNeed] = "unlabelled"
    comparability: ClassVar[Comparability] = "normalised"
    paper: ClassVar[str] = (
        "Dekhovich et al., Neural Network Relief: a Pruning Algorithm Based on Neural Activity, 2021"
    )
    formula: ClassVar[str] = (
        "Σ over the neurons that read the unit of mean|w·x| / (Σ over inputs of mean|w·x| + |b|)"
    )
    origin: ClassVar[Origin] = "adapted"
    cost: ClassVar[str] = (
        "one forward pass; one example's activations, and a filter's positions squared per channel"
    )

    def __init__(self, alpha: float | None = None, aggregate: Aggregate = "norm") -> None:
        if alpha is not None and not 0.0 < alpha <= 1.0:
            raise UsageError(f"relief has alpha {alpha}", hint="give a number in (0, 1], or None")
        if aggregate not in ("norm", "sum"):
            raise UsageError(f"relief has no aggregate {aggregate!r}", hint="use norm or sum")
        self.alpha = alpha
        self.aggregate: Aggregate = aggregate

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        assert data is not None
        sums: dict[str, torch.Tensor] = {}
        counts: dict[str, int] = {}
        readers: dict[str, Reader] = {}

        def visit(reader: Reader, now: Moment) -> None:
            name = reader.consumer.node
            x = now.x if now.x.ndim > 1 else now.x[None]
            found = x.abs().sum(0, keepdim=True)
            if name in sums and sums[name].shape != found.shape:
                raise CriterionError(
                    f"criterion {self.name} averages over examples, and {reader.node} read maps of shapes "
                    f"{tuple(sums[name].shape[1:])} and {tuple(found.shape[1:])}",
                    hint="give all examples the same size",
                )
            sums[name] = sums[name] + found if name in sums else found
            counts[name] = counts.get(name, 0) + len(x)
            readers[name] = reader

        scores = stream_readers(captured, deps, data, visit, criterion=self.name)
        for name, reader in readers.items():
            signals = signals_of(reader, sums.pop(name) / counts[name], self.aggregate)
            shares = shares_of(signals)
            if self.alpha is not None:
                shares = shares * prefix(shares, self.alpha)
            groups = reader.consumer.groups
            supplied = shares[:, :-1].reshape(groups, -1, shares.shape[1] - 1).sum((0, 1)).cpu()
            for group, runs in reader.parts:
                own = by_unit(supplied, runs, group.size)
                scores[group.name] = scores[group.name] + own if group.name in scores else own
        for name, value in scores.items():
            warn_if_all_alike(value, name, self.name, "no signal passes to a reader")
        return scores


def shares_of(signals: torch.Tensor) -> torch.Tensor:
    """Every signal over the sum of its row; zeros for a neuron that nothing reaches."""
    total = signals.sum(1, keepdim=True)
    return torch.where(total > 0, signals / torch.where(total > 0, total, 1.0), 0.0)


def prefix(shares: torch.Tensor, alpha: float) -> torch.Tensor:
    """The largest entries of each row until they sum up to ``alpha``; True where an entry stays.

    A row of zeros keeps nothing.
    """
    ordered, order = shares.sort(stable=True, dim=1, descending=True)
    # What came before an entry must fall short of alpha; rounding of a whole row must not.
    before = ordered.cumsum(1) - ordered
    keep = (before < alpha - 1e-12) & (ordered > 0)
    return torch.zeros_like(keep).scatter(1, order, keep)


def signals_of(reader: Reader, mean: torch.Tensor, aggregate: Aggregate) -> torch.Tensor:
    """Mean absolute signal of every connection of a layer, and of its bias in the last column.

    Parameters
    ----------
    reader
        The layer.
    mean
        Mean absolute input ``[1, ...]``.
    aggregate
        See :class:`Relief`.

    Returns
    -------
    torch.Tensor
        ``[C_out, C_in/groups + 1]``, float64.
    """
    consumer, node = reader.consumer, reader.node
    shape = node.meta["val"].shape
    positions = spots_of(consumer, node.meta["val"])
    # At every position a kernel gives |w|'p, with p what it sees of the channel: no map is needed, only
    # sums over positions of p and of p p'.
    squares = first = torch.zeros(())
    step = max(1, _CHUNK // (mean.shape[1 if consumer.kind == "convolution" else -1] * consumer.kernel))
    for start in range(0, positions, step):
        at = torch.arange(start, min(start + step, positions))[None]
        seen = inputs_at(consumer, node, mean, at, shape[2:])
        seen = (
            seen.unflatten(2, (-1, consumer.kernel)).movedim(0, 2).double()
        )  # [groups, C_in/groups, p, k*k]
        squares, first = squares + seen.transpose(2, 3) @ seen, first + seen.sum(2)
    weight = reader.weight.abs().double().reshape(consumer.groups, -1, *first.shape[1:])
    if aggregate == "sum":
        signals = (weight * first[:, None]).sum(3)
    else:
        signals = (torch.einsum("gock,gckl->gocl", weight, squares) * weight).sum(3).clamp_min(0.0).sqrt()
    signals = signals.flatten(0, 1)
    bias = torch.zeros(len(signals), 1, dtype=torch.float64, device=signals.device)
    if reader.bias is not None:
        every = positions if aggregate == "sum" else positions**0.5
        bias = reader.bias.double().abs()[:, None] * every
    return torch.cat([signals, bias], 1)
