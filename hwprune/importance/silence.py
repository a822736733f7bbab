"""Scores that say nothing are refused."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hwprune.errors import CriterionError


def reject_silence(scores: Mapping[str, Tensor], criterion: str) -> dict[str, Tensor]:
    """The scores, unless every one of them is zero.

    Raises
    ------
    CriterionError
        The loss depends on no unit at all.
    """
    if scores and not any(bool(value.any()) for value in scores.values()):
        raise CriterionError(
            f"criterion {criterion} finds that the loss depends on no channel: every score is 0",
            hint="the loss must be computed from the model's output, and its gradient must not vanish",
        )
    return dict(scores)
