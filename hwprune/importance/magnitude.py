"""Filter norms: the data-free criteria."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import ChannelGroup, Dependencies
from hwprune.importance.batches import Batch
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.units import members_with_role, parameters_of, sum_by_unit


class _FilterNorm(Criterion):
    data_need: ClassVar[DataNeed] = "none"
    comparability: ClassVar[Comparability] = "normalised"
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = "reads the weights once"
    power: ClassVar[int]

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        parameters = parameters_of(captured)
        return {g.name: filter_norm(g, parameters, self.power, self.name) for g in deps.groups}


def filter_norm(
    group: ChannelGroup, parameters: dict[str, torch.Tensor], power: int, criterion: str
) -> torch.Tensor:
    """Norm of each unit's filter, per producer divided by its mean, summed over the producers.

    The division keeps one wide-ranging producer from deciding for a whole residual stage.

    Parameters
    ----------
    group
        A group with at least one producer.
    parameters
        Parameters by name.
    power
        1 or 2: which norm.
    criterion
        Name for the error message.

    Returns
    -------
    torch.Tensor
        ``[size]``, float64.
    """
    total: torch.Tensor | None = None
    for member in members_with_role(group, "producer", criterion):
        weight = parameters[member.param].detach().double()
        norm = sum_by_unit(weight.abs() ** power, member.dim, member.runs, group.size) ** (1.0 / power)
        # A producer may serve some units only: the mean is over those that it serves.
        served = {unit for run in member.runs for unit in range(run.unit, run.unit + run.count)}
        mean = norm.sum() / max(1, len(served))
        scaled = norm / mean if mean > 0 else norm
        total = scaled if total is None else total + scaled
    assert total is not None
    return total


@register
class L1(_FilterNorm):
    """Sum of the absolute weights of a unit's filters."""

    name: ClassVar[str] = "l1"
    power: ClassVar[int] = 1
    paper: ClassVar[str] = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017"
    formula: ClassVar[str] = "Σ|w| over the unit's filters; each producer divided by its mean, then summed"


@register
class L2(_FilterNorm):
    """Euclidean norm of a unit's filters."""

    name: ClassVar[str] = "l2"
    power: ClassVar[int] = 2
    paper: ClassVar[str] = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017 (the L2 variant)"
    formula: ClassVar[str] = "√Σw² over the unit's filters; each producer divided by its mean, then summed"
