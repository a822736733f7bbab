"""How much accuracy each group costs when it alone is cut, without any repair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import CriterionError, UsageError
from hwprune.importance import score
from hwprune.importance.batches import logits_of
from hwprune.importance.registry import Loss
from hwprune.planner.curves.meter import Meter
from hwprune.planner.workbench import Progress, silent
from hwprune.solve.domains import keep_best

Measure = Literal["accuracy", "loss"]
#: Shares of a group that are kept: what the paper removes is 10 to 90 %.
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


@dataclass(frozen=True)
class Sensitivity:
    """What a scan found.

    Attributes
    ----------
    measure
        ``"accuracy"`` (0 to 1) or ``"loss"``.
    dense
        That of the whole model.
    groups
        Per group the measured values by number of kept units, descending. A loss may be infinite.
    """

    measure: Measure
    dense: float
    groups: Mapping[str, Mapping[int, float]]

    def harm(self, group: str) -> dict[int, float]:
        """By number of kept units, how much accuracy is lost (or loss gained); negative where it helped."""
        values = self.groups[group]
        if self.measure == "accuracy":
            return {width: self.dense - value for width, value in values.items()}
        return {width: value - self.dense for width, value in values.items()}

    def most_sensitive(self, share: float = 0.5) -> tuple[str, ...]:
        """Groups by the harm at the measured width nearest to a share of their units, the worst first."""
        harms: dict[str, float] = {}
        for group in self.groups:
            harm = self.harm(group)
            full = max(harm)
            harms[group] = harm[min(harm, key=lambda width: (abs(width - share * full), -width))]
        return tuple(sorted(harms, key=lambda group: -harms[group]))


def sensitivity_scan(
    captured: Captured,
    deps: Dependencies,
    data: Iterable[Any],
    *,
    scores: Mapping[str, np.ndarray | torch.Tensor] | None = None,
    shares: Sequence[float] = SHARES,
    measure: Measure = "accuracy",
    loss: Loss | None = None,
    batches: int = 4,
    progress: Progress = silent,
) -> Sensitivity:
    """Cut one group at a time to several widths and see what that does, without retraining or repair.

    Parameters
    ----------
    captured, deps
        The model and its groups; neither is changed.
    data
        Labelled held-out batches, at most ``batches`` of them are read and kept.
    scores
        One score per unit of each group, by which the best are kept; by default those of ``l1``.
    shares
        Shares of a group's units to keep, in ``(0, 1)``. One unit stays at least.
    measure
        ``"accuracy"`` of a classifier, or ``"loss"``.
    loss
        ``(outputs, targets) -> scalar``; cross entropy by default. Only for ``measure="loss"``.
    progress
        Told after each measurement.

    Raises
    ------
    UsageError
        No or other shares, another measure, a loss beside the accuracy.
    CriterionError
        No data or labels, scores that do not fit, a loss of the model that is not finite.

    References
    ----------
    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017. :func:`hwprune.planner.curves.calibrate`
    measures after a repair, at fewer widths, and makes an objective of it.
    """
    if measure not in ("accuracy", "loss"):
        raise UsageError(f"no scan of {measure!r}", hint="measure 'accuracy' or 'loss'")
    if measure == "accuracy" and loss is not None:
        raise UsageError("an own loss beside measure='accuracy'", hint="use measure='loss'")
    if not shares or not all(0.0 < share < 1.0 for share in shares):
        raise UsageError(f"shares to keep are {list(shares)}", hint="give numbers above 0 and below 1")
    order = scores if scores is not None else score(captured, deps, "l1")
    ranked = {group.name: _fitting(order, group.name, group.size) for group in deps.groups}
    accuracy = measure == "accuracy"
    meter = Meter(
        captured,
        deps,
        data,
        _share_of_errors if accuracy else loss,
        batches=batches,
        repair=_nothing,
    )
    points = {g.name: sorted({max(1, round(s * g.size)) for s in shares} - {g.size}) for g in deps.groups}
    total, done = sum(map(len, points.values())), 0
    dense = 1.0 - meter.dense if accuracy else meter.dense
    found: dict[str, dict[int, float]] = {}
    for group in deps.groups:
        values = {group.size: dense}
        for width in reversed(points[group.name]):
            value = meter.kept({group.name: keep_best(ranked[group.name], width)})
            values[width] = 1.0 - value if accuracy else value
            done += 1
            progress(f"cut {group.name} to {width} units", done, total)
        found[group.name] = values
    return Sensitivity(measure, dense, found)


def _fitting(scores: Mapping[str, np.ndarray | torch.Tensor], name: str, size: int) -> np.ndarray:
    found = np.asarray(scores[name], np.float64) if name in scores else np.empty(0)
    if found.shape != (size,):
        raise CriterionError(
            f"scores of group {name} have shape {found.shape}, and it has {size} units",
            hint="score the same model with hwprune.importance.score",
        )
    return found


def _share_of_errors(outputs: Any, target: Any) -> torch.Tensor:
    predicted = logits_of(outputs).argmax(1)
    if not isinstance(target, torch.Tensor) or target.shape != predicted.shape or target.is_floating_point():
        raise CriterionError(
            f"a scan of the accuracy needs a class number for each of {tuple(predicted.shape)} predictions",
            hint="yield tuples (inputs, integer labels), or use measure='loss'",
        )
    return (predicted != target).double().mean()


def _nothing(_: object) -> None:
    """The scan is of models as they are cut."""
