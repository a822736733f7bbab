"""Changes of the loss in the solver's terms: values that add up to 1 for the whole model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hwprune.errors import PlanError
from hwprune.planner.worth import Side, Worth

#: Changes of the loss are raised to this power before they are added. Powers from 1/2 to 1 rank plans
#: about equally well by their loss after fine-tuning (``python -m bench.surrogates``): below, the few
#: large changes count too little, above, the many small ones do.
POWER = 0.75
#: What the width itself is worth beside the loss, as a share of everything: between two widths that
#: the held-out data cannot tell apart, the wider one is kept if there is room for it.
WIDTH_ITSELF = 1e-3
#: Stands for a loss that is infinite.
HOPELESS = 1e3


def worth_of(
    curves: Mapping[str, Sequence[float]],
    domains: Mapping[str, Sequence[int]],
    blocks: Mapping[str, float],
    inside: Mapping[str, Sequence[str]],
    resolutions: Mapping[Side, float],
    *,
    power: float = POWER,
) -> Worth:
    """Turn changes of the loss into values; those of the dense model add up to 1.

    The order of choices is that of the sum of their changes, each raised to ``power``.

    Parameters
    ----------
    curves, domains
        Change of the loss per group and width, and the widths. Not negative, the last one 0.
    blocks, inside
        Change of the loss without a block, and the groups that go with it. A group inside several
        (nested) blocks is counted to the first.
    resolutions
        Change of the loss at another resolution.
    """
    harm = {group: [_harm(change, power) for change in curve] for group, curve in curves.items()}
    without = {name: _harm(change, power) for name, change in blocks.items()}
    home: dict[str, str] = {}
    for name, groups in inside.items():
        for group in groups:
            home.setdefault(group, name)
    # A block's worth lies partly in the widths of its groups, which are gone with it.
    within = dict.fromkeys(without, 0.0)
    for group, name in home.items():
        if group in harm and name in within:
            within[name] += harm[group][0]
    total = math.fsum(without.values())
    total += math.fsum(h[0] for group, h in harm.items() if home.get(group) not in without)
    share = (1.0 - WIDTH_ITSELF) / (total or 1.0)
    extra = WIDTH_ITSELF / max(1, len(curves))
    values: dict[str, tuple[float, ...]] = {}
    for group, found in harm.items():
        least, full = domains[group][0], domains[group][-1]
        values[group] = tuple(
            share * (found[0] - h) + extra * (width - least) / max(1, full - least)
            for h, width in zip(found, domains[group], strict=True)
        )
    return Worth(
        values,
        {name: share * (change - within[name]) for name, change in without.items()},
        {side: -share * _harm(change, power) for side, change in resolutions.items()},
    )


def blended(
    first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]], share: float = 0.5
) -> dict[str, tuple[float, ...]]:
    """Values between two objectives, ``share`` of the second: a rival for the recheck of a plan.

    Parameters
    ----------
    first, second
        Per group one value per width, each of total about 1 for the whole model.

    Raises
    ------
    PlanError
        They are about other groups or widths.
    """
    sizes = [{group: len(values) for group, values in objective.items()} for objective in (first, second)]
    if sizes[0] != sizes[1]:
        differ = sorted(group for group, _ in sizes[0].items() ^ sizes[1].items())
        raise PlanError(
            f"two objectives differ in the widths of group {differ[0]}", hint="make both for the same domains"
        )
    return {
        group: tuple((1.0 - share) * a + share * b for a, b in zip(values, second[group], strict=True))
        for group, values in first.items()
    }


def _harm(change: float, power: float) -> float:
    return max(0.0, change if math.isfinite(change) else HOPELESS) ** power
