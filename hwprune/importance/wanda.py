"""Weights times the norms of what they multiply."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.importance.batches import Batch
from hwprune.importance.consumers import Consumer
from hwprune.importance.readers import Moment, Reader, by_unit, stream_readers
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.values import warn_if_all_alike


@register
class Wanda(Criterion):
    """``|w| * ||x||`` summed over all that the unit's readers have for it.

    The paper scores single weights; this is their sum over a unit's slices of all layers that read
    it. The norm of an input channel is its root mean square over examples and positions, so that
    layers that read the unit at several resolutions weigh the same. A group that no convolution and
    no linear layer reads is scored by the root mean squares of its activations; this is logged.
    """

    name: ClassVar[str] = "wanda"
    data_need: ClassVar[DataNeed] = "unlabelled"
    comparability: ClassVar[Comparability] = "normalised"
    paper: ClassVar[str] = (
        "Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024"
    )
    formula: ClassVar[str] = (
        "Σ|w|·‖x‖ over the readers' weights for the unit; ‖x‖: root mean square of the input"
    )
    origin: ClassVar[Origin] = "adapted"
    cost: ClassVar[str] = "one forward pass; one activation"

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        assert data is not None
        squares: dict[str, torch.Tensor] = {}
        counts: dict[str, int] = {}
        readers: dict[str, Reader] = {}

        def visit(reader: Reader, now: Moment) -> None:
            name = reader.consumer.node
            found = per_channel(reader.consumer, now.x).double().square().sum(1).cpu()
            squares[name] = squares[name] + found if name in squares else found
            counts[name] = counts.get(name, 0) + now.x.numel() // len(found)
            readers[name] = reader

        scores = stream_readers(captured, deps, data, visit, criterion=self.name)
        for name, reader in readers.items():
            groups = reader.consumer.groups
            norms = (squares[name] / counts[name]).sqrt().reshape(groups, -1)
            weight = reader.weight.double().abs().cpu()
            slices = weight.reshape(groups, -1, *weight.shape[1:2], reader.consumer.kernel).sum((1, 3))
            for group, runs in reader.parts:
                own = by_unit((slices * norms).sum(0), runs, group.size)
                scores[group.name] = scores[group.name] + own if group.name in scores else own
        for name, value in scores.items():
            warn_if_all_alike(value, name, self.name, "all weights or inputs are zero")
        return scores


def per_channel(consumer: Consumer, x: torch.Tensor) -> torch.Tensor:
    """What a layer reads, ``[C_in, everything else]``."""
    return x.movedim(-1 if consumer.kind == "linear" else 1, 0).flatten(1)
