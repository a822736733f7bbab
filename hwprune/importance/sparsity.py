"""Sparsity of filters as importance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import named_tensors
from hwprune.dependency.groups import Dependencies, Member
from hwprune.errors import UsageError
from hwprune.importance.batches import Batch
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.units import members_with_role, served_units, sum_by_unit


@register
class RegularizedSparsity(Criterion):
    """Share of a unit's weights that are not small, with an L2 term.

    Our reading of the abstract, which names a sparsity function per channel, an index from it, and an L2
    regulariser; the paper itself was not at hand. It may have meant activations; this reads weights.

    Parameters
    ----------
    kappa
        A weight is small if its absolute value is below ``kappa`` times the standard deviation of the
        layer's weights.
    l2
        Factor of the L2 term, the unit's squared norm over the largest of its layer. 0 leaves the share of
        weights that are not small.
    smooth
        Count a weight as ``exp(-|w| / (kappa * std))`` small rather than all or nothing.

    Notes
    -----
    A layer's index lies in ``[0, 1 + l2]``; the score is its mean over the group's producers.
    """

    name: ClassVar[str] = "regularized_sparsity"
    data_need: ClassVar[DataNeed] = "none"
    comparability: ClassVar[Comparability] = "normalised"
    paper: ClassVar[str] = "Bao et al., channel pruning by regularised sparsity, ICSIP 2019"
    formula: ClassVar[str] = "mean over producers of (1 − share of |w| < ½·std(W)) + 0.1·‖w‖²/max‖w‖²"
    origin: ClassVar[Origin] = "abstract"
    cost: ClassVar[str] = "reads the weights once"

    def __init__(self, kappa: float = 0.5, l2: float = 0.1, smooth: bool = False) -> None:
        if not kappa > 0.0 or not l2 >= 0.0:
            raise UsageError(
                f"regularized_sparsity with kappa={kappa} and l2={l2}",
                hint="kappa is above 0, l2 at least 0",
            )
        self.kappa, self.l2, self.smooth = kappa, l2, smooth

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        parameters = named_tensors(captured.graph)
        scores: dict[str, torch.Tensor] = {}
        for group in deps.groups:
            total = torch.zeros(group.size, dtype=torch.float64)
            layers = torch.zeros(group.size, dtype=torch.float64)
            for member in members_with_role(group, "producer", self.name):
                weight = parameters[member.param].detach()
                small = self._small(weight)

                def per_unit(
                    values: torch.Tensor, m: Member = member, size: int = group.size
                ) -> torch.Tensor:
                    return sum_by_unit(values, m.dim, m.runs, size).cpu()

                count = per_unit(torch.ones_like(weight, dtype=torch.float64)).clamp_min(1.0)
                energy = per_unit(weight.double() ** 2)
                index = 1.0 - per_unit(small) / count + self.l2 * energy / energy.max().clamp_min(1e-300)
                served = served_units(member.runs, group.size)
                total += torch.where(served, index, 0.0)
                layers += served
            scores[group.name] = total / layers.clamp_min(1.0)
        return scores

    def _small(self, weight: torch.Tensor) -> torch.Tensor:
        """How small each weight is: 0 to 1, float64."""
        values = weight.double().abs()
        threshold = self.kappa * weight.double().std(correction=0)
        if self.smooth:
            return torch.exp(-values / threshold.clamp_min(1e-300))
        return (values < threshold).double()
