"""BatchNorm scales as importance."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import named_tensors
from hwprune.dependency.groups import Dependencies, Member
from hwprune.errors import CriterionError
from hwprune.importance.batches import Batch
from hwprune.importance.magnitude import filter_norm
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.units import sum_by_unit

_log = logging.getLogger(__name__)


@register
class BatchNormScale(Criterion):
    """``|gamma|`` summed over the BatchNorms of the group.

    Meant for models trained with an L1 penalty on the scales;
    :func:`~hwprune.importance.threshold.global_threshold` is the paper's way to choose by it.

    Notes
    -----
    Groups without a BatchNorm get their L2 filter norms, scaled so that their median equals the median
    of all ``|gamma|`` scores; this is logged. Scales of LayerNorm, GroupNorm and InstanceNorm are not
    taken for BatchNorm scales, so a transformer without BatchNorms is refused.
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
        parameters = named_tensors(captured.graph)
        scales = batchnorm_weights(captured)
        scores: dict[str, torch.Tensor] = {}
        for group in deps.groups:
            members = {(m.param, m.dim): m for m in group.members if _is_scale(m, scales)}
            if members:
                vectors = [
                    sum_by_unit(parameters[m.param].detach().abs(), m.dim, m.runs, group.size)
                    for m in members.values()
                ]
                scores[group.name] = torch.stack(vectors).sum(0)
        return norms_for_the_others(scores, deps, parameters, self.name)


def norms_for_the_others(
    scores: Mapping[str, torch.Tensor],
    deps: Dependencies,
    parameters: Mapping[str, torch.Tensor],
    criterion: str,
) -> dict[str, torch.Tensor]:
    """Scores of groups with BatchNorms, and in the same range L2 filter norms of the groups without.

    Parameters
    ----------
    scores
        Per group ``[size]``, for the groups that have BatchNorms.
    parameters
        Parameters by name.
    criterion
        Name for messages.

    Raises
    ------
    CriterionError
        No group has a BatchNorm.
    """
    if deps.groups and not scores:
        raise CriterionError(
            f"criterion {criterion} needs BatchNorm layers with learned scales, and no group has one",
            hint="use l1 or l2 (no data), or taylor2019 (labelled data)",
        )
    without = [group for group in deps.groups if group.name not in scores]
    if not without:
        return dict(scores)
    median = torch.cat(list(scores.values())).median()
    others: dict[str, torch.Tensor] = {}
    for group in without:
        norm = filter_norm(group, parameters, 2, criterion)
        # Filters of zeros are worth nothing; the others must not be measured by them.
        some = norm[norm > 0]
        others[group.name] = norm * (median.to(norm) / some.median()) if len(some) else norm
    names = ", ".join(group.name for group in without)
    _log.warning("%s: L2 filter norms stand in for groups without a BatchNorm: %s", criterion, names)
    return {**scores, **others}


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
