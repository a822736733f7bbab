"""One order over the units of all groups: how much of each group stays follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hwprune.errors import UsageError


@dataclass(frozen=True)
class Selection:
    """What stays of all groups together.

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


def keep_exactly(scores: Mapping[str, torch.Tensor], count: int, *, least: int = 1) -> Selection:
    """Keep exactly so many of the best units of all groups: the rule of SNIP, for whole units.

    The ``least`` best units of every group stay in any case, and the best of all others with them, until
    there are ``count``. Of equal scores the one of the earlier group stays, and inside a group the one with
    the lower number, so that the choice does not depend on how a machine sorts. Latency plays no part: this
    is for comparison with the planner.

    Parameters
    ----------
    scores
        Per group ``[size]``, of a criterion whose scores are comparable between groups.
    count
        How many units stay, over all groups. The paper's count is ``round(total * (1 - sparsity))``.
    least
        So many of the best units of a group (or all that it has) stay in any case. The paper, which removes
        single weights, has no such limit.

    Returns
    -------
    Selection
        Its threshold is the greatest score of a unit that goes, minus infinity where none goes. At
        it some may stay (ties, and the least of a group), so units are to be taken from ``keep``.

    Raises
    ------
    UsageError
        There are no scores, one of them is not finite, ``least`` is below 0, or there is no set of that
        many units that keeps the least of every group.

    References
    ----------
    Lee, Ajanthan and Torr, SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019.
    """
    if least < 0 or not scores:
        raise UsageError(
            f"a choice over {len(scores)} groups that keeps at least {least} units of each",
            hint="score a model with groups first; least is 0 or more",
        )
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise UsageError(
                f"scores of group {name} are not finite, so they have no order",
                hint="look for NaN or infinite values in the weights and the data",
            )
    orders = {name: torch.argsort(s, descending=True, stable=True).tolist() for name, s in scores.items()}
    safe = {name: set(order[:least]) for name, order in orders.items()}
    fewest, most = sum(map(len, safe.values())), sum(map(len, orders.values()))
    if not fewest <= count <= most:
        raise UsageError(
            f"{count} units are to stay of {most} in {len(scores)} groups, {fewest} of them in any case",
            hint=f"keep from {fewest} to {most}",
        )
    # Sorting is stable: of equals, the earlier group and the lower number come first.
    rest = [
        (float(score[unit]), name, unit)
        for name, score in scores.items()
        for unit in range(len(score))
        if unit not in safe[name]
    ]
    rest.sort(key=lambda each: -each[0])
    for _, name, unit in rest[: count - fewest]:
        safe[name].add(unit)
    gone = rest[count - fewest :]
    threshold = gone[0][0] if gone else -math.inf
    return Selection(threshold, {name: tuple(sorted(units)) for name, units in safe.items()})
