"""Derivatives with respect to gates, example by example."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hwprune.errors import UsageError
from hwprune.importance.batches import Batch, logits_of
from hwprune.importance.gatespace import GateSpace, Vectors

#: At most so many examples in one graph where several passes go over it.
MICRO_BATCH = 16
#: Numbers, each a sum over the examples of a batch of something that each example has for itself.
Sums = Callable[[Batch], Iterable[Tensor]]


class PerExample:
    """Gate derivatives per example, one backward pass for a whole batch where that can be.

    It can where every gated tensor holds the examples one after the other in its first dimension,
    which is found out on the first batch: outputs of the first and last example must not depend on
    the gates of others. Elsewhere (tokens first, computed weights) the examples run one at a time. The
    model must be in evaluation mode.
    """

    def __init__(self, space: GateSpace) -> None:
        self.space = space
        self._together: bool | None = None

    def derive(self, batch: Batch, sums: Sums) -> Iterator[Vectors]:
        """For each of the sums, per group the derivatives ``[examples, size]``.

        ``sums`` runs :attr:`GateSpace.model` on the batch that it is given, which may be a part of
        ``batch``. Take what is yielded before asking for more: the graph is held until the end.
        """
        if not self.together(batch):
            parts = [list(self._derive(one, sums)) for one in split(batch, 1)]
            for each in zip(*parts, strict=True):
                yield {name: torch.cat([part[name] for part in each]) for name in each[0]}
            return
        yield from self._derive(batch, sums)

    def together(self, batch: Batch) -> bool:
        """Whether the examples of a batch can be told apart in one pass."""
        if batch.size < 2:
            return True
        if self._together is None:
            try:
                self._together = self._apart(batch)
            except (UsageError, ValueError):
                self._together = False
        return self._together

    def _derive(self, batch: Batch, sums: Sums) -> Iterator[Vectors]:
        rows = self.rows(batch.size)
        with self.space.rows(rows):
            for value in sums(batch):
                yield _rows_of(value, rows)

    def rows(self, examples: int) -> Vectors:
        """Ones ``[examples, size]`` that require gradients, for every group."""
        return {
            name: torch.ones(examples, *gate.shape, dtype=gate.dtype, device=gate.device).requires_grad_()
            for name, gate in self.space.gates.items()
        }

    def _apart(self, batch: Batch) -> bool:
        rows = self.rows(batch.size)
        with torch.enable_grad(), self.space.rows(rows):
            outputs = logits_of(batch.run(self.space.model))
            if outputs.shape[0] != batch.size:
                return False
            # Weights that differ: a plain sum of class scores may be constant.
            weights = torch.linspace(1.0, 2.0, outputs[0].numel(), device=outputs.device).to(outputs.dtype)
            for example in (0, batch.size - 1):
                found = _rows_of((outputs[example].flatten() * weights).sum(), rows)
                others = [row for row in range(batch.size) if row != example]
                if any(bool(value[others].any()) for value in found.values()):
                    return False
        return True


def _rows_of(value: Tensor, rows: Vectors) -> Vectors:
    if not value.requires_grad:
        return {name: torch.zeros_like(row) for name, row in rows.items()}
    found = torch.autograd.grad(
        value, list(rows.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(rows, found, strict=True))


def split(batch: Batch, most: int) -> list[Batch]:
    """A batch in parts of at most so many examples; whole if it has no more."""
    size = batch.size
    if size <= most:
        return [batch]
    return [_part(batch, start, min(start + most, size), size) for start in range(0, size, most)]


def repeated(batch: Batch, times: int) -> Batch:
    """The examples of a batch again and again."""
    size = batch.size

    def again(value: object) -> object:
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == size:
            return value.repeat(times, *([1] * (value.ndim - 1)))
        return value

    return _mapped(batch, again)


def _part(batch: Batch, start: int, end: int, size: int) -> Batch:
    def cut(value: object) -> object:
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == size:
            return value[start:end]
        return value

    return _mapped(batch, cut)


def _mapped(batch: Batch, change: Callable[[object], object]) -> Batch:
    inputs, named, target = pytree.tree_map(change, (batch.inputs, dict(batch.named), batch.target))
    return dataclasses.replace(batch, inputs=inputs, named=named, target=target)
