"""Cost over channel counts from a few measured points, with an error that the points themselves show.

Universal kriging: a trend that is linear in every channel count (what a loop nest costs, but for
its staircase), and a Gaussian process for what the trend leaves (Matheron, *The intrinsic random
functions and their applications*, 1973; the closed form of leaving one out is Dubrule's, 1983).
Everything is relative: a kernel of 10 us and one of 1 ms weigh the same.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import ConvexHull, QhullError

#: Tried reach of the deviations from the trend, in doublings of a channel count.
REACHES = (0.5, 1.0, 2.0)
#: Tried shares of the deviations that are noise or steps, which neighbours do not show.
NOISES = (0.01, 0.1, 1.0)
#: Deviations are never taken to be smaller than this share of the cost.
LEAST_DEVIATION = 1e-3
#: Relative deviation of costs of which no point could be left out.
UNKNOWN_DEVIATION = 0.2
#: A place this far outside a face of the hull, relative to its extent, is on it.
EDGE = 1e-6


class Surface:
    """Cost of the kernels of one shape.

    Parameters
    ----------
    places
        Shape ``[n, d]``: channel counts, all positive, no two rows equal.
    values
        Shape ``[n]``: costs, positive.
    """

    def __init__(self, places: np.ndarray, values: np.ndarray) -> None:
        self.places = np.asarray(places, np.float64)
        self.values = np.asarray(values, np.float64)
        self._top = self.places.max(axis=0) if self.places.shape[1] else np.ones(0)
        self._terms = _trend_terms(len(self.values), np.flatnonzero(np.ptp(self.places, axis=0)).tolist())
        self._scale_by = _weighted_trend(self._features(self.places), self.values)
        self._hull = _Hull(self.places)
        best = min(
            (self._fit(reach, noise) for reach in REACHES for noise in NOISES),
            key=lambda fit: float(np.nan_to_num(fit.left_out**2, nan=UNKNOWN_DEVIATION**2).mean()),
        )
        self._fitted = best

    @property
    def left_out_errors(self) -> np.ndarray:
        """Shape ``[n]``: relative error at each point, predicted from all others; NaN where it cannot be.

        Corners are left out too, so this is an upper bound on errors inside: there the surface
        extrapolates, which it never does when it is asked.
        """
        return self._fitted.left_out * self._scale(self.places) / self.values

    @cached_property
    def known(self) -> dict[tuple[int, ...], float]:
        """Cost at each measured place."""
        places = (tuple(int(c) for c in place) for place in self.places)
        return dict(zip(places, self.values.tolist(), strict=True))

    @cached_property
    def error(self) -> float:
        """Root mean square of the relative errors of points that others enclose (or of all)."""
        errors = self.left_out_errors
        for chosen in (self._hull.inner & np.isfinite(errors), np.isfinite(errors)):
            if chosen.any():
                return float(np.sqrt(np.mean(errors[chosen] ** 2)))
        return UNKNOWN_DEVIATION

    def encloses(self, place: Sequence[int]) -> bool:
        """Whether a place lies between measured ones."""
        return self._hull.holds(np.asarray(place, np.float64))

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Costs and standard deviations at places, shape ``[m, d]``.

        No cost is below the least that was measured, or above the greatest: between noisy points a
        surface may swing further, to less than nothing even.
        """
        wanted = np.asarray(places, np.float64)
        fit, scale = self._fitted, self._scale(wanted)
        features = self._features(wanted) / scale[:, None]
        cross = _matern(wanted, self.places, fit.reach)
        mean = features @ fit.trend + cross @ fit.weights
        # What is unknown of the deviations, and of the trend (Cressie, Statistics for Spatial Data, 3.4).
        lever = features - cross @ fit.inverse @ fit.features
        variance = 1.0 + fit.noise - np.einsum("ij,jk,ik->i", cross, fit.inverse, cross)
        variance += np.einsum("ij,jk,ik->i", lever, fit.trend_inverse, lever)
        cost = np.clip(mean * scale, self.values.min(), self.values.max())
        return cost, fit.deviation * np.sqrt(np.maximum(variance, 0.0)) * scale

    def _fit(self, reach: float, noise: float) -> _Fit:
        """Solve for one choice of parameters; errors of leaving one out come with the inverse."""
        scale = self._scale(self.places)
        features, relative = self._features(self.places) / scale[:, None], self.values / scale
        inverse = np.linalg.inv(_matern(self.places, self.places, reach) + noise * np.eye(len(relative)))
        trend_inverse = np.linalg.pinv(features.T @ inverse @ features)
        trend = trend_inverse @ features.T @ inverse @ relative
        weights = inverse @ (relative - features @ trend)
        precisions = np.diag(inverse - inverse @ features @ trend_inverse @ features.T @ inverse)
        # A point that alone decides a coefficient of the trend cannot be left out.
        known = precisions > 1e-6
        variances = 1.0 / np.where(known, precisions, 1.0)
        left_out = np.where(known, weights * variances, np.nan)
        spread = np.sqrt(np.nanmean(left_out**2 / variances)) if known.any() else UNKNOWN_DEVIATION
        return _Fit(
            reach,
            noise,
            features,
            inverse,
            trend,
            trend_inverse,
            weights,
            left_out,
            max(float(spread), LEAST_DEVIATION),
        )

    def _features(self, places: np.ndarray) -> np.ndarray:
        relative = places / self._top
        columns = [np.prod(relative[:, list(term)], axis=1) for term in self._terms]
        return np.stack(columns, axis=1)

    def _scale(self, places: np.ndarray) -> np.ndarray:
        """A rough cost, to make everything relative; never far below what was measured."""
        return np.maximum(self._features(places) @ self._scale_by, 0.3 * self.values.min())


@dataclass(frozen=True)
class _Fit:
    reach: float
    noise: float
    features: np.ndarray
    inverse: np.ndarray
    trend: np.ndarray
    trend_inverse: np.ndarray
    weights: np.ndarray
    left_out: np.ndarray
    deviation: float


def outermost(places: Sequence[Sequence[int]]) -> list[int]:
    """Numbers of the places that no others enclose."""
    return np.flatnonzero(~_Hull(np.asarray(places, np.float64)).inner).tolist()


class _Hull:
    """The convex hull of places, or their bounding box where they span no volume."""

    def __init__(self, places: np.ndarray) -> None:
        self._low, self._high = places.min(axis=0), places.max(axis=0)
        span = self._high > self._low
        self._axes = np.flatnonzero(span)
        self._faces: np.ndarray | None = None
        corner = np.zeros(len(places), dtype=bool)
        if 2 <= len(self._axes) <= 3 and len(places) > len(self._axes):
            with contextlib.suppress(QhullError):
                hull = ConvexHull(self._relative(places))
                self._faces = hull.equations
                corner[hull.vertices] = True
        if self._faces is None:
            corner |= (places[:, span] == self._low[span]).any(axis=1)
            corner |= (places[:, span] == self._high[span]).any(axis=1)
        #: Places that the others enclose.
        self.inner = ~corner

    def holds(self, place: np.ndarray) -> bool:
        inside = bool(((place >= self._low) & (place <= self._high)).all())
        if not inside or self._faces is None:
            return inside
        outside = self._faces[:, :-1] @ self._relative(place[None])[0] + self._faces[:, -1]
        return bool(outside.max() <= EDGE)

    def _relative(self, places: np.ndarray) -> np.ndarray:
        axes = self._axes
        return (places[:, axes] - self._low[axes]) / (self._high[axes] - self._low[axes])


def _trend_terms(count: int, axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Products of channel counts in the trend: as many as ``count`` points can tell apart."""
    if len(axes) <= 3:
        every = [t for n in range(len(axes) + 1) for t in itertools.combinations(axes, n)]
        if count > len(every):
            return every
    linear: list[tuple[int, ...]] = [(), *((axis,) for axis in axes)]
    return linear if count > len(linear) else [()]


def _weighted_trend(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Coefficients with the least relative errors."""
    return np.linalg.lstsq(features / values[:, None], np.ones(len(values)), rcond=1e-10)[0]


def _matern(one: np.ndarray, other: np.ndarray, reach: float) -> np.ndarray:
    """Matern covariance of smoothness 3/2 over doublings of the channel counts."""
    gaps = np.log2(one[:, None, :]) - np.log2(other[None, :, :])
    distance = np.sqrt(3.0 * np.sum(gaps**2, axis=-1)) / reach
    return (1.0 + distance) * np.exp(-distance)
