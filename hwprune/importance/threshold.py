"""One threshold over the scores of all groups: how much of each group stays follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hwprune.errors import UsageError


@dataclass(frozen=True)
class Selection:
    """What is above a threshold.

    Attributes
    ----------
    threshold
        Units with a score strictly above it stay.
    keep
        Per group the units that stay, ascending.
    """

    threshold: float
    keep: Mapping[str, tuple[int, ...]]


def global_threshold(scores: Mapping[str, torch.Tensor], share: float, *, least: int = 1) -> Selection:
    """Keep what lies above the score at ``share`` of all units: the rule of Network Slimming.

    All scores are sorted together; the threshold is the one at position ``int(total * share)``, and units
    with scores strictly above it stay. Latency plays no part: this is for comparison with the planner.

    Parameters
    ----------
    scores
        Per group ``[size]``, of a criterion whose scores are comparable between groups.
    share
        Share of the units to remove, from 0 up to but without 1.
    least
        So many of the best units of a group stay in any case. The published rule has no such limit, and a
        layer without channels is no network any more.

    Raises
    ------
    UsageError
        ``share`` or ``least`` is out of range, or there are no scores.

    References
    ----------
    Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017.
    """
    if not 0.0 <= share < 1.0:
        raise UsageError(f"the share to remove is {share}", hint="it is at least 0 and below 1")
    if least < 0 or not scores:
        raise UsageError(
            f"a threshold over {len(scores)} groups that keeps at least {least} units of each",
            hint="score a model with groups first; least is 0 or more",
        )
    ranked = torch.sort(torch.cat([score.double() for score in scores.values()])).values
    threshold = float(ranked[int(len(ranked) * share)])
    keep: dict[str, tuple[int, ...]] = {}
    for name, score in scores.items():
        stays = score > threshold
        stays[torch.argsort(score, descending=True, stable=True)[:least]] = True
        keep[name] = tuple(stays.nonzero().flatten().tolist())
    return Selection(threshold, keep)
