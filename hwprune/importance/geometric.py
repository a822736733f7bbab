"""Filters that others can stand in for: distances between filters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import named_tensors
from hwprune.dependency.groups import ChannelGroup, Dependencies
from hwprune.importance.batches import Batch
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.units import members_with_role, rows_of_units, served_units

#: Columns of filters that are read in double precision at a time.
_COLUMNS = 4096


@register
class FPGM(Criterion):
    """Mean distance of a unit's filters from those of the other units.

    The unit nearest to all others is nearest to their geometric median, so that the others can stand in
    for it best; its norm plays no part.

    Notes
    -----
    Of a group with several producers, the filters of a unit in all of them are concatenated, each
    producer's scaled so that its mean filter norm is one: only a unit that is replaceable in every
    producer is. A unit of several channels (an attention head, a position in every group of a grouped
    convolution) has the concatenation of its filters in the order of their positions. Biases and
    BatchNorms are left out, as in the paper. Where a producer makes a part of the units only (a
    concatenation), only units that are made by a common producer are compared, in the producers that
    they share.
    """

    name: ClassVar[str] = "fpgm"
    data_need: ClassVar[DataNeed] = "none"
    comparability: ClassVar[Comparability] = "normalised"
    paper: ClassVar[str] = (
        "He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks "
        "Acceleration, CVPR 2019"
    )
    formula: ClassVar[str] = "mean over the other units u of ‖w − w_u‖"
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = "all pairs of filters of a group: a matrix product; units × units in memory"

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        parameters = named_tensors(captured.graph)
        return {group.name: _mean_distance(group, parameters, self.name) for group in deps.groups}


def _mean_distance(
    group: ChannelGroup, parameters: Mapping[str, torch.Tensor], criterion: str
) -> torch.Tensor:
    squares = torch.zeros(group.size, group.size, dtype=torch.float64)
    shared = torch.zeros(group.size, group.size, dtype=torch.bool)
    for member in members_with_role(group, "producer", criterion):
        weight = parameters[member.param].detach()
        rows = rows_of_units(weight, member.dim, member.runs, group.size)
        served = served_units(member.runs, group.size)
        together = served[:, None] & served[None, :]
        squares += torch.where(together, _squared_distances(rows, int(served.sum())).cpu(), 0.0)
        shared |= together
    shared.fill_diagonal_(False)
    distances = torch.where(shared, squares.sqrt(), 0.0)
    return distances.sum(1) / shared.sum(1).clamp_min(1)


def _squared_distances(rows: torch.Tensor, served: int) -> torch.Tensor:
    """Between all rows, float64 ``[n, n]``, scaled by the square of the mean norm of the served rows."""
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for part in rows.split(_COLUMNS, 1):
        wide = part.double()
        gram += wide @ wide.T
    energy = gram.diagonal()
    distances = (energy[:, None] + energy[None, :] - 2.0 * gram).clamp_min(0.0)
    # What cancels in the difference leaves rounding errors of this size.
    distances = torch.where(distances > 1e-14 * (energy[:, None] + energy[None, :]), distances, 0.0)
    mean = float(energy.sqrt().sum()) / max(1, served)
    return distances / mean**2 if mean > 0 else distances
