"""LASSO problems given by products: for one penalty, for one width, and for all penalties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwprune.errors import CriterionError
from hwprune.importance.active import ActiveInverse, with_ridge

#: Makes duplicated columns share instead of leaving the answer open; of the mean of the diagonal.
RIDGE = 1e-8
#: The least penalty that is looked at is that of the empty set over 2 to this power.
_HALVINGS = 30
#: Sweeps on the way to a width: where columns depend on each other they would never end.
SWEEPS = 200


def lasso(
    a: np.ndarray,
    b: np.ndarray,
    penalty: float,
    *,
    start: np.ndarray | None = None,
    tolerance: float = 1e-9,
    sweeps: int = 2_000,
) -> np.ndarray:
    """Minimise ``beta'A beta / 2 - b'beta + penalty * |beta|_1`` by coordinate descent.

    With ``A = Z'Z / n`` and ``b = Z'y / n`` that is the LASSO of ``y`` on ``Z``; the data are not
    needed. Sweeps run over the coordinates that are not zero until these stand, then over all.

    Parameters
    ----------
    a, b
        ``[C, C]``, positive semidefinite, and ``[C]``.
    penalty
        0 or more.
    start
        Where to start from (the solution of a penalty nearby).
    tolerance
        Largest change of a coordinate, of the largest one, in the last sweep.
    sweeps
        At most so many sweeps.

    Returns
    -------
    np.ndarray
        ``[C]``.
    """
    beta = np.zeros(len(b)) if start is None else start.copy()
    gradient = b - a @ beta
    diagonal = np.diag(a)
    every = np.flatnonzero(diagonal > 0)
    chosen, full = every, True
    for _ in range(sweeps):
        moved = 0.0
        for i in chosen:
            raw = gradient[i] + diagonal[i] * beta[i]
            new = np.sign(raw) * max(abs(raw) - penalty, 0.0) / diagonal[i]
            change = new - beta[i]
            if change != 0.0:
                gradient -= a[:, i] * change
                beta[i] = new
                moved = max(moved, abs(change))
        still = moved <= tolerance * max(float(np.abs(beta).max(initial=0.0)), 1e-300)
        if still and full:
            return beta
        full = still
        chosen = every if full else np.flatnonzero(beta)
    return beta


def exact_width(a: np.ndarray, b: np.ndarray, width: int, *, steps: int = 40) -> np.ndarray:
    """The LASSO's set of exactly ``width`` channels, by bisection of the penalty.

    The last set of that size as the penalty falls. Where several channels enter between two penalties
    that cannot be told apart, the set before is filled up by falling ``|beta_i| * |z_i|`` behind.

    Parameters
    ----------
    a, b
        See :func:`lasso`.
    width
        From 0 to C.

    Returns
    -------
    np.ndarray
        Numbers of the channels, rising.

    Raises
    ------
    CriterionError
        The width is not between 0 and C.
    """
    count = len(b)
    if not 0 <= width <= count:
        raise CriterionError(f"width {width} of {count} channels", hint="ask for 0 to all channels")
    high = float(np.abs(b).max(initial=0.0))
    low = high
    inner = outer = np.zeros(count)
    # Down to the first penalty with too many, then between it and the last one without.
    for _ in range(_HALVINGS):
        low /= 2
        outer = lasso(a, b, low, start=inner, sweeps=SWEEPS)
        if np.count_nonzero(outer) > width:
            break
        high, inner = low, outer
    for _ in range(steps if np.count_nonzero(outer) > width else 0):
        middle = (high + low) / 2
        beta = lasso(a, b, middle, start=inner, sweeps=SWEEPS)
        if np.count_nonzero(beta) > width:
            low, outer = middle, beta
        else:
            high, inner = middle, beta
    rank = np.where(inner != 0, np.inf, np.abs(outer) * np.sqrt(np.diag(a)))
    return np.sort(np.argsort(-rank, kind="stable")[:width])


@dataclass(frozen=True)
class Path:
    """Solutions for all penalties.

    Attributes
    ----------
    entered
        ``[C]``: the penalty below which a channel's coefficient is not zero any more; 0 where it
        never comes to stay.
    penalties
        Falling; where a channel enters or leaves.
    supports
        The channels with coefficients just below each of these penalties.
    """

    entered: np.ndarray
    penalties: tuple[float, ...]
    supports: tuple[tuple[int, ...], ...]

    def of_width(self, width: int) -> tuple[int, ...]:
        """The last set of exactly ``width`` channels, rising; empty if the path has none."""
        found = [s for s in self.supports if len(s) == width]
        return tuple(sorted(found[-1])) if found else ()


def lasso_path(a: np.ndarray, b: np.ndarray, *, keep_supports: bool = True) -> Path:
    """All solutions of :func:`lasso`, from the penalty at which the first channel enters down to 0.

    Coefficients are linear in the penalty between the points where one enters or leaves; these are
    followed from one to the next (Osborne, Presnell and Turlach, 2000). A ridge of ``1e-8`` of the
    mean diagonal makes the path unique where columns depend on each other.

    Parameters
    ----------
    a, b
        See :func:`lasso`.
    keep_supports
        Otherwise ``penalties`` and ``supports`` stay empty.
    """
    count = len(b)
    a = with_ridge(a, RIDGE)
    entered = np.zeros(count)
    penalties: list[float] = []
    supports: list[tuple[int, ...]] = []
    beta = np.zeros(count)
    active = ActiveInverse(a)
    inside = np.zeros(count, dtype=bool)
    penalty = float(np.abs(b).max(initial=0.0))
    floor = 1e-12 * penalty
    gradient = b.copy()
    just_left = -1
    # Every channel enters once and leaves now and then; cycles of rounding must end.
    for _ in range(8 * count + 8 if penalty > 0 else 0):
        if not inside.all():
            free = np.where(inside, -np.inf, np.abs(gradient))
            if just_left >= 0:
                free[just_left] = -np.inf
            best = int(np.argmax(free))
            if free[best] >= penalty * (1 - 1e-9) and free[best] > floor:
                active.add(best)
                inside[best] = True
                entered[best] = penalty
        if keep_supports:
            penalties.append(penalty)
            supports.append(tuple(active.members))
        members = np.array(active.members, dtype=np.int64)
        signs = np.sign(gradient[members])
        signs = np.where(beta[members] != 0, np.sign(beta[members]), signs)
        slope = active.inverse @ signs  # of the coefficients as the penalty falls
        spread = np.zeros(count)
        spread[members] = slope
        drift = a @ spread  # of the gradient
        step = penalty
        leaves = -1
        with np.errstate(divide="ignore", invalid="ignore"):
            # A coefficient passes through zero.
            hits = -beta[members] / slope
            hits[~((hits > 0) & (np.sign(slope) != signs) & (beta[members] != 0))] = np.inf
            if hits.size and hits.min() < step:
                step, leaves = float(hits.min()), int(members[int(hits.argmin())])
            # Another one's gradient reaches the penalty.
            upper = (penalty - gradient) / (1.0 - drift)
            lower = (penalty + gradient) / (1.0 + drift)
        reach = np.minimum(
            np.where((upper > 0) & (drift < 1.0), upper, np.inf),
            np.where((lower > 0) & (drift > -1.0), lower, np.inf),
        )
        reach[inside] = np.inf
        if just_left >= 0 and not inside[just_left]:
            # It lies on the bound now and moves inwards.
            reach[just_left] = _other_bound(penalty, gradient[just_left], drift[just_left])
        if reach.size and reach.min() < step:
            step, leaves = float(reach.min()), -1
        beta[members] += step * slope
        gradient -= step * drift
        penalty -= step
        just_left = leaves
        if leaves >= 0:
            beta[leaves] = 0.0
            active.remove(leaves)
            inside[leaves] = False
            entered[leaves] = 0.0
        if penalty <= floor:
            break
    return Path(entered, tuple(penalties), tuple(supports))


def _other_bound(penalty: float, gradient: float, drift: float) -> float:
    """Step until a gradient on one bound meets the other one, if it does."""
    sign = 1.0 if gradient > 0 else -1.0
    closing = 1.0 + sign * drift
    return (penalty + sign * gradient) / closing if closing > 0 else np.inf
