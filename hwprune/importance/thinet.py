"""Greedy choices of what the next layer's output needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import UsageError
from hwprune.importance.batches import Batch
from hwprune.importance.contributions import contributions
from hwprune.importance.greedy import as_scores, pursuit_order, removal_order
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.rows import Positions

Rule = Literal["omp", "removal"]


@register
class ThiNet(Criterion):
    """Place of the unit in a greedy choice by what it contributes to the layers that read it.

    Parameters
    ----------
    rule
        ``"omp"``: orthogonal matching pursuit, which takes units one by one and fits a factor for
        each (the journal version, better in the authors' tables). ``"removal"``: units go one by
        one, each time the one with which the sum of what the removed contributed stays least (the
        conference version).
    positions
        How many positions of every example are looked at in every layer.
    seed
        Of the positions.

    Notes
    -----
    The authors look at one random output channel per position; we take all of them, at the price of
    one matrix product (64 random ones where a layer has more than 8,192 inputs, with its filter's
    positions). A group that several layers read is chosen by the sum of their objectives, each
    divided by the energy of its outputs. What other groups contribute to the same layers stays as
    it is. A group that no convolution and no linear layer reads is scored by the root mean squares
    of its activations; this is logged.
    """

    name: ClassVar[str] = "thinet"
    data_need: ClassVar[DataNeed] = "unlabelled"
    comparability: ClassVar[Comparability] = "within_group"
    paper: ClassVar[str] = (
        "Luo et al., ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression, ICCV 2017; "
        "ThiNet: Pruning CNN Filters for a Thinner Net, TPAMI 2019"
    )
    formula: ClassVar[str] = (
        "place in orthogonal matching pursuit of Σ z by the units' contributions z to the readers"
    )
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = "one forward pass; (C·k²)² sums per reader; C³ per group"

    def __init__(self, rule: Rule = "omp", positions: int = 10, seed: int = 0) -> None:
        if rule not in ("omp", "removal"):
            raise UsageError(f"thinet has no rule {rule!r}", hint="use omp or removal")
        if positions < 1:
            raise UsageError(f"thinet looks at {positions} positions", hint="give 1 or more")
        self.rule: Rule = rule
        self.positions = Positions(positions, seed)

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        assert data is not None
        found = contributions(captured, deps, data, self.positions, centred=False, criterion=self.name)
        scores = dict(found.fallback)
        for name, products in found.products.items():
            if self.rule == "removal":
                ranks = as_scores(removal_order(products), first_goes=True)
            else:
                ranks = as_scores(pursuit_order(products), first_goes=False)
            scores[name] = torch.from_numpy(ranks)
        return scores
