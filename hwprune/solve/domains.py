"""Which widths a group may take, which units they keep, and what that is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hwprune.errors import CriterionError, PlanError


def aligned_widths(
    size: int, channels_per_unit: int, multiple: int, *, minimum: float = 0.1, steps: int = 8
) -> tuple[tuple[int, ...], str | None]:
    """Widths whose channel count suits the device, about evenly spread.

    Parameters
    ----------
    size
        Units of the dense group.
    channels_per_unit
        Channels that one unit stands for.
    multiple
        Channel counts must be multiples of this; the full size is offered whatever it is.
    minimum
        Least fraction of ``size`` that may be kept.
    steps
        Most widths to offer; fewer where alignment leaves fewer.

    Returns
    -------
    widths
        In units, ascending, never 0, the full size last.
    exempt
        Why the full size is not aligned (to be reported by a plan that keeps it), or ``None``.

    Raises
    ------
    PlanError
        Parameters that leave nothing to choose from.
    """
    if size < 1 or channels_per_unit < 1 or multiple < 1 or steps < 1 or not 0.0 <= minimum <= 1.0:
        raise PlanError(
            f"no widths for size {size}, {channels_per_unit} channels per unit, multiple {multiple}, "
            f"minimum {minimum}, steps {steps}",
            hint="sizes, multiples and steps are at least 1, and the minimum is a fraction from 0 to 1",
        )
    step = multiple // math.gcd(multiple, channels_per_unit)
    exempt = (
        f"dense width {size * channels_per_unit} is not a multiple of {multiple}" if size % step else None
    )
    # The small slack keeps 0.1 * 30 from becoming 4 by a rounding error.
    least = max(1, math.ceil(minimum * size - 1e-9))
    first = math.ceil(least / step) * step
    candidates = [*range(first, size, step), size]
    if len(candidates) <= steps:
        return tuple(candidates), exempt
    if steps == 1:
        return (size,), exempt
    picks = np.rint(np.linspace(0, len(candidates) - 1, steps)).astype(int)
    return tuple(candidates[i] for i in dict.fromkeys(picks.tolist())), exempt


def keep_best(scores: np.ndarray, width: int) -> tuple[int, ...]:
    """The ``width`` units with the largest scores, ascending; of equals the first ones.

    Parameters
    ----------
    scores
        Shape ``[size]``; higher means keep.

    Raises
    ------
    CriterionError
        A score is not finite.
    PlanError
        ``width`` is not within ``1..size``.
    """
    checked = _finite(scores)
    if not 1 <= width <= checked.size:
        raise PlanError(f"cannot keep {width} of {checked.size} units", hint=f"keep 1 to {checked.size}")
    order = np.argsort(-checked, kind="stable")[:width]
    return tuple(sorted(order.tolist()))


def domain_values(scores: np.ndarray, widths: Sequence[int]) -> tuple[float, ...]:
    """Importance kept at each width: the sum of that many largest scores.

    Nothing is normalised; scores of different groups must already be comparable. Non-negative
    scores give nondecreasing values.

    Raises
    ------
    CriterionError
        A score is not finite.
    """
    # A running sum, because a sum made anew per width can shrink by a rounding error.
    kept = np.concatenate([[0.0], np.cumsum(np.sort(_finite(scores))[::-1])])
    return tuple(float(kept[width]) for width in widths)


def _finite(scores: np.ndarray) -> np.ndarray:
    checked = np.asarray(scores, dtype=np.float64)
    if checked.ndim != 1:
        raise CriterionError(f"scores have shape {checked.shape}", hint="give one score per unit")
    bad = np.flatnonzero(~np.isfinite(checked))
    if bad.size:
        raise CriterionError(
            f"{bad.size} of {checked.size} scores are not finite (first: unit {int(bad[0])})",
            hint="check the calibration data and the model for NaN or infinity",
        )
    return checked
