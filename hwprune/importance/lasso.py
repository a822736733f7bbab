"""The order in which the LASSO takes channels for the next layer's output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import UsageError
from hwprune.importance.batches import Batch
from hwprune.importance.contributions import contributions
from hwprune.importance.lasso_path import lasso_path
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.streams import Positions


@register
class Lasso(Criterion):
    """Largest penalty at which the unit's factor stays in the LASSO of what reads it on the units.

    One factor per unit multiplies what it contributes; the layers' outputs are fitted with an
    intercept, and the penalty of the factors' absolute values falls from where all are zero to none.
    A unit's score is the penalty below which its factor is not zero any more.

    Parameters
    ----------
    positions
        How many positions of every example are looked at in every layer.
    seed
        Of the positions.

    Notes
    -----
    The best ``n`` units by score are the LASSO's last set of that size, for all ``n`` at once, where
    the sets are nested. They are not where a factor passes through zero and its unit leaves
    for a while: then, between the sizes at which it left and came back, the LASSO's set
    (:func:`hwprune.importance.lasso_path.exact_width`) has it, and ours has the one that stayed. With
    more positions than units this is rare.

    The authors solve layer by layer on the network that is pruned so far, look at a subset of the
    positions and keep up to a tenth more channels than asked for; scores for all widths at once are
    taken on the original. A group that several layers read is chosen by the sum of their
    objectives, each divided by the energy of its outputs (ours; the paper does not cut residual
    streams). What other groups contribute to the same layers stays as it is. A group that no
    convolution and no linear layer reads is scored by the root mean squares of its activations;
    this is logged.
    """

    name: ClassVar[str] = "lasso"
    data_need: ClassVar[DataNeed] = "unlabelled"
    comparability: ClassVar[Comparability] = "within_group"
    paper: ClassVar[str] = (
        "He, Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017"
    )
    formula: ClassVar[str] = (
        "the penalty λ below which β_u ≠ 0 in min ‖y − Σ β_u z_u‖²/2 + λ‖β‖₁; z: contributions"
    )
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = "one forward pass; (C·k²)² sums per reader; C³ per group"

    def __init__(self, positions: int = 10, seed: int = 0) -> None:
        if positions < 1:
            raise UsageError(f"lasso looks at {positions} positions", hint="give 1 or more")
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
        found = contributions(captured, deps, data, self.positions, centred=True, criterion=self.name)
        scores = dict(found.fallback)
        for name, products in found.products.items():
            scores[name] = torch.from_numpy(path_scores(products))
        return scores


def path_scores(products: np.ndarray) -> np.ndarray:
    """Penalty at which each column enters to stay, for the sum of all columns; ``[C, C] -> [C]``."""
    return lasso_path(products, products.sum(1), keep_supports=False).entered
