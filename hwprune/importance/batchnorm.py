"""BatchNorm scales as importance."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import ClassVar

import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import ChannelGroup, Dependencies, Member
from hwprune.errors import CriterionError
from hwprune.importance.batches import Batch
from hwprune.importance.magnitude import filter_norm
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.units import parameters_of, sum_by_unit

_log = logging.getLogger(__name__)


@register
class BatchNormScale(Criterion):
    """``|gamma|`` summed over the BatchNorms of the group.

    Meant for models trained with an L1 penalty on the scales. Groups without a BatchNorm get
    their L2 filter norms, scaled so that their median equals the median of all ``|gamma|`` scores;
    this is logged.
    """

    name: ClassVar[str] = "bn_scale"
    data_need: ClassVar[DataNeed] = "none"
    comparability: ClassVar[Comparability] = "global"
    paper: ClassVar[str] = (
        "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017"
    )
    formula: ClassVar[str] = "Σ|γ| over the group's BatchNorms"
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = "reads the weights once"

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        parameters = parameters_of(captured)
        scales = batchnorm_weights(captured)
        scores: dict[str, torch.Tensor] = {}
        without: list[ChannelGroup] = []
        for group in deps.groups:
            members = {(m.param, m.dim): m for m in group.members if _is_scale(m, scales)}
            if members:
                vectors = [
                    sum_by_unit(parameters[m.param].detach().abs(), m.dim, m.runs, group.size)
                    for m in members.values()
                ]
                scores[group.name] = torch.stack(vectors).sum(0)
            else:
                without.append(group)
        if deps.groups and not scores:
            raise CriterionError(
                "criterion bn_scale needs BatchNorm layers with learned scales, and no group has one",
                hint="use l1 or l2 (no data), or taylor2019 (labelled data)",
            )
        if without:
            median = torch.cat(list(scores.values())).median()
            for group in without:
                norm = filter_norm(group, parameters, 2, self.name)
                scores[group.name] = norm * (median / norm.median().clamp_min(1e-12))
            names = ", ".join(group.name for group in without)
            _log.warning("bn_scale: L2 filter norms stand in for groups without a BatchNorm: %s", names)
        return scores


def batchnorm_weights(captured: Captured) -> set[str]:
    """Names of the parameters that are the scale of a BatchNorm."""
    names: set[str] = set()
    for node in captured.graph.graph.nodes:
        if node.op == "call_function" and str(node.target) == "aten.batch_norm.default":
            weight = node.args[1]
            if weight is not None:
                names.add(str(weight.target))
    return names


def _is_scale(member: Member, scales: set[str]) -> bool:
    return member.role == "channelwise" and member.param in scales
