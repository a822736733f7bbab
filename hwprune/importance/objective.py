"""Scores made comparable between groups, for the solver to add up."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import torch

from hwprune.errors import UsageError
from hwprune.importance.registry import Comparability

_log = logging.getLogger(__name__)


def to_objective(scores: Mapping[str, torch.Tensor], comparability: Comparability) -> dict[str, np.ndarray]:
    """Bring scores to one scale on which all units of the model together are worth 1.

    - ``"global"``: scores keep their proportions; a group may weigh much more than another.
    - ``"normalised"``: each group is divided by its mean first, so that an average unit is worth
      the same in every group.
    - ``"within_group"``: each score is replaced by its rank in the group (ties share their mean
      rank), then as ``"normalised"``. Only the order inside a group is taken from the scores.

    Parameters
    ----------
    scores
        Per group ``[size]``. Negative scores (removal would help) count as 0, because what is
        kept must never be worth less than nothing to the solver.
    comparability
        The criterion's class.

    Returns
    -------
    dict
        Per group a float64 array ``[size]``, nonnegative, of total 1. Where all scores of a group
        (``"global"``: of the model) are 0 its units share their worth equally.

    Raises
    ------
    UsageError
        Unknown ``comparability``.
    """
    if comparability not in ("global", "normalised", "within_group"):
        raise UsageError(
            f"unknown comparability {comparability!r}", hint="use global, normalised or within_group"
        )
    values = {name: np.maximum(score.numpy().astype(np.float64), 0.0) for name, score in scores.items()}
    if comparability == "within_group":
        values = {name: _ranks(scores[name].numpy().astype(np.float64)) for name in scores}
    if comparability != "global":
        values = {name: _divided_by_mean(value) for name, value in values.items()}
    total = sum(float(value.sum()) for value in values.values())
    if total <= 0.0:
        _log.warning("all importance scores are 0: every channel counts the same")
        count = sum(value.size for value in values.values())
        return {name: np.full(value.shape, 1.0 / count) for name, value in values.items()}
    return {name: value / total for name, value in values.items()}


def _divided_by_mean(value: np.ndarray) -> np.ndarray:
    mean = float(value.mean()) if value.size else 0.0
    return value / mean if mean > 0 else np.ones_like(value)


def _ranks(value: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties at their mean rank."""
    _, inverse, counts = np.unique(value, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]
