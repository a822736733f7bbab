"""Well-known criteria from elsewhere, to compare with: LAMP and random order."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import ClassVar

import torch

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import named_tensors
from hwprune.dependency.groups import Dependencies
from hwprune.importance.batches import Batch
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.units import members_with_role, sum_by_unit


@register
class LAMP(Criterion):
    """Squared norm of a unit's filters over that of all units of its group that are not smaller.

    The paper scores single weights of a layer in this way, so that one threshold over all layers leaves
    something of each; here the entries are whole units. Of a group with several producers, the squared
    norms are added, each producer's divided by its total first (as if its filters were scaled to a
    total of one and the filters of a unit were concatenated). Units of one norm have one score.
    """

    name: ClassVar[str] = "lamp"
    data_need: ClassVar[DataNeed] = "none"
    comparability: ClassVar[Comparability] = "global"
    paper: ClassVar[str] = "Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021"
    formula: ClassVar[str] = "‖w‖² / Σ ‖v‖² over the group's units v with ‖v‖ ≥ ‖w‖"
    origin: ClassVar[Origin] = "adapted"
    cost: ClassVar[str] = "reads the weights once"

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
            energy = torch.zeros(group.size, dtype=torch.float64)
            for member in members_with_role(group, "producer", self.name):
                squares = parameters[member.param].detach().double() ** 2
                own = sum_by_unit(squares, member.dim, member.runs, group.size).cpu()
                energy += own / own.sum() if own.sum() > 0 else own
            scores[group.name] = _over_those_not_smaller(energy)
        return scores


def _over_those_not_smaller(energy: torch.Tensor) -> torch.Tensor:
    values, place, counts = torch.unique(energy, return_inverse=True, return_counts=True)
    weights = values * counts
    rest = weights.flip(0).cumsum(0).flip(0)
    # Where everything is zero, so is the score.
    return torch.where(rest > 0, values / rest, 0.0)[place]


@register
class Random(Criterion):
    """Uniformly random numbers: what any other criterion has to beat.

    Parameters
    ----------
    seed
        With the group's name it decides on the group's numbers.
    """

    name: ClassVar[str] = "random"
    data_need: ClassVar[DataNeed] = "none"
    comparability: ClassVar[Comparability] = "within_group"
    paper: ClassVar[str] = ""
    formula: ClassVar[str] = "uniform in [0, 1)"
    origin: ClassVar[Origin] = "none"
    cost: ClassVar[str] = "nothing"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        scores: dict[str, torch.Tensor] = {}
        for group in deps.groups:
            # Python's own hash differs from run to run.
            seed = zlib.crc32(f"{self.seed} {group.name}".encode())
            generator = torch.Generator().manual_seed(seed)
            scores[group.name] = torch.rand(group.size, generator=generator, dtype=torch.float64)
        return scores
