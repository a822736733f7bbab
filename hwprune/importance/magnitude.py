"""Filter norms: the data-free criteria."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import torch

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import named_tensors
from hwprune.dependency.groups import ChannelGroup, Dependencies
from hwprune.errors import UsageError
from hwprune.importance.batches import Batch
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.units import members_with_role, served_units, sum_by_unit
from hwprune.importance.upstream import from_input_to_output, kept_counts, without_inputs

Variant = Literal["independent", "greedy"]


class _FilterNorm(Criterion):
    data_need: ClassVar[DataNeed] = "none"
    comparability: ClassVar[Comparability] = "normalised"
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = "reads the weights once"
    power: ClassVar[int]

    def __init__(
        self, variant: Variant = "independent", keep: float | Mapping[str, int] | None = None
    ) -> None:
        if variant not in ("independent", "greedy"):
            raise UsageError(
                f"{self.name} has no variant {variant!r}", hint="use variant='independent' or 'greedy'"
            )
        if keep is not None and variant == "independent":
            raise UsageError(
                f"keep={keep!r} beside variant='independent' of {self.name}, which removes nothing while it "
                "scores",
                hint="leave it out, or use variant='greedy'",
            )
        if isinstance(keep, bool | str):
            raise UsageError(
                f"{self.name} is to keep {keep!r}",
                hint="give a share of every group, or counts by group name",
            )
        self.variant: Variant = variant
        self.keep = 0.5 if keep is None else keep

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        parameters = named_tensors(captured.graph)
        if self.variant == "independent":
            return {g.name: filter_norm(g, parameters, self.power, self.name) for g in deps.groups}
        counts = kept_counts(self.keep, deps, self.name)
        scores: dict[str, torch.Tensor] = {}
        for group in from_input_to_output(captured, deps.groups):
            found = filter_norm(group, parameters, self.power, self.name)
            scores[group.name] = found
            worst = torch.argsort(found, stable=True)[: group.size - counts[group.name]]
            parameters |= without_inputs(group, worst, parameters)
        return scores


def filter_norm(
    group: ChannelGroup, parameters: Mapping[str, torch.Tensor], power: int, criterion: str
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
        mean = norm.sum() / served_units(member.runs, group.size).sum().clamp_min(1)
        scaled = norm / mean if mean > 0 else norm
        total = scaled if total is None else total + scaled
    assert total is not None
    return total


@register
class L1(_FilterNorm):
    """Sum of the absolute weights of a unit's filters.

    Parameters
    ----------
    variant
        ``"independent"`` takes whole filters. ``"greedy"`` goes from the input to the output, removes the
        lowest units of each group on its way, and does not count the slices of later filters that
        read removed units. A residual stage is met where it begins: of the groups inside it, none has
        been removed by then.
    keep
        What ``"greedy"`` keeps on its way: a share of every group (default 0.5), or a number of units by
        group name; groups that are not named stay whole. The scores serve other widths as well.

    Notes
    -----
    The paper ranks a residual stage by its projection shortcut alone and leaves later members to
    follow. Here all producers of a group speak with the same weight.
    """

    name: ClassVar[str] = "l1"
    power: ClassVar[int] = 1
    paper: ClassVar[str] = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017"
    formula: ClassVar[str] = "Σ|w| over the unit's filters; each producer divided by its mean, then summed"


@register
class L2(_FilterNorm):
    """Euclidean norm of a unit's filters.

    Parameters
    ----------
    variant, keep
        As for ``l1``.
    """

    name: ClassVar[str] = "l2"
    power: ClassVar[int] = 2
    paper: ClassVar[str] = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017 (the L2 variant)"
    formula: ClassVar[str] = "√Σw² over the unit's filters; each producer divided by its mean, then summed"
