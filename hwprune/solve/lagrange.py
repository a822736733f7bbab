"""Bounds from prices on the limits (Lagrangian relaxation).

With a price per unit of each limit, the best choice without limits is found exactly by elimination,
and ``best value - price * (usage - limit)`` bounds the value of every choice within the limits
(Everett, 1963; Geoffrion, 1974). Prices that make the bound least are found with cutting planes
(Kelley, 1960): every choice met on the way is a line in the prices, and the next prices are where
the highest of the lines is lowest. Lines hold for all budgets, so one pool serves a whole frontier.

The bound is at least as tight as the linear relaxation of the transport formulation, because
elimination treats everything but the limits exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from hwprune.solve.elimination import Elimination, Swept
from hwprune.solve.model import Model

#: Most sweeps for one search of prices.
MAX_SWEEPS = 60
#: Largest scaled price; beyond it only choices of least usage are met.
MAX_PRICE = 1e5
#: Bounds are rounded up by this, relative to the size of the sums that they were made of.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Prices:
    """The bound ``at prices``, and the sweep that it came from."""

    bound: float
    prices: np.ndarray
    swept: Swept
    offset: float


class Dual:
    """Bounds for one model under any limits.

    Attributes
    ----------
    pool
        Levels of all choices that were met, with their rows.
    """

    def __init__(self, model: Model, elimination: Elimination | None = None) -> None:
        self.model = model
        self.elimination = elimination or Elimination(model)
        self.pool: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        self._size = float(
            np.abs(self.model.constant[0]) + sum(np.abs(f.layers[0]).max() for f in self.model.factors)
        )

    def least(self, row: int, allowed: Sequence[np.ndarray] | None = None) -> tuple[float, np.ndarray]:
        """Least usage of a row (a lower bound on it where elimination is inexact), and a choice."""
        weights = np.zeros(len(self.model.rows))
        weights[row] = -1.0
        swept = self.elimination.sweep(weights, allowed)
        self.meet(swept.levels)
        return self.model.constant[row] - swept.best, swept.levels

    def meet(self, levels: np.ndarray) -> np.ndarray:
        """Add a choice to the pool; returns its rows."""
        key = levels.tobytes()
        if key not in self.pool:
            self.pool[key] = (levels, self.model.price(levels[None, :])[:, 0])
        return self.pool[key][1]

    def at(
        self, prices: np.ndarray, at_most: np.ndarray, allowed: Sequence[np.ndarray] | None = None
    ) -> Prices:
        """The bound at some prices."""
        weights = np.concatenate([[1.0], -prices])
        swept = self.elimination.sweep(weights, allowed)
        size = self._size + float(prices @ (np.abs(at_most) + np.abs(self.model.constant[1:])))
        best = swept.best + float(weights @ self.model.constant) + ROUNDING * size
        self.meet(swept.levels)
        offset = best - swept.best + float(prices @ at_most)
        return Prices(best + float(prices @ at_most), prices, swept, offset)

    def search(
        self,
        at_most: np.ndarray,
        *,
        enough: float = -math.inf,
        allowed: Sequence[np.ndarray] | None = None,
        first: np.ndarray | None = None,
        sweeps: int = MAX_SWEEPS,
        deadline: float = math.inf,
    ) -> Prices:
        """Prices whose bound is least, nearly; stops early at a bound of ``enough``, or in time."""
        best = self.at(np.zeros(len(at_most)), at_most, allowed)
        if first is not None:
            best = min(best, self.at(first, at_most, allowed), key=lambda found: found.bound)
        lines = [rows for levels, rows in self.pool.values() if _within(levels, self.model, allowed)]
        scale = self._scale(lines, at_most)
        for _ in range(sweeps):
            if time.perf_counter() > deadline:
                break
            prices, lowest = _lowest(lines, at_most, scale)
            if best.bound <= enough or lowest >= best.bound - 1e-9 * max(abs(best.bound), self._size * 1e-3):
                break
            known = len(self.pool)
            found = self.at(prices, at_most, allowed)
            lines.append(self.pool[found.swept.levels.tobytes()][1])
            if found.bound < best.bound:
                best = found
            elif len(self.pool) == known and self.elimination.exact:
                break  # a choice that was met before: its line cannot be raised any more
        return best

    def _scale(self, lines: list[np.ndarray], at_most: np.ndarray) -> np.ndarray:
        """Objective per unit of each limit: the size that prices have."""
        rows = np.array(lines)
        spread = np.abs(rows[:, 1:] - at_most).max(axis=0)
        size = np.abs(self.model.at_most[1:]) + 1e-300
        return max(np.ptp(rows[:, 0]), 1e-6 * self._size, 1e-300) / np.maximum(spread, 1e-9 * size)


def _within(levels: np.ndarray, model: Model, allowed: Sequence[np.ndarray] | None) -> bool:
    if allowed is None:
        return True
    return all(may[tuple(levels[list(f.axes)])] for f, may in zip(model.factors, allowed, strict=True))


def _lowest(lines: list[np.ndarray], at_most: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, float]:
    """Prices where the highest line is lowest, and its height there."""
    rows = np.array(lines)
    top = rows[:, 0].max()
    size = max(np.ptp(rows[:, 0]), 1e-12 * abs(top), 1e-300)
    # In units of size: t - sum(price * slack) >= objective for every line.
    slack = (at_most - rows[:, 1:]) * scale / size
    if slack.shape[1] == 1:
        price, height = _lowest_of_one(-(top - rows[:, 0]) / size, slack[:, 0])
        return np.array([price]) * scale, float(top + size * height)
    left = np.hstack([-np.ones((len(rows), 1)), slack])
    solved = optimize.linprog(
        np.concatenate([[1.0], np.zeros(len(at_most))]),
        A_ub=left,
        b_ub=(top - rows[:, 0]) / size,
        bounds=[(None, None), *[(0.0, MAX_PRICE)] * len(at_most)],
        method="highs",
    )
    if solved.x is None:
        return np.zeros(len(at_most)), -math.inf
    return np.maximum(solved.x[1:], 0.0) * scale, float(top + size * solved.x[0])


def _lowest_of_one(heights: np.ndarray, slopes: np.ndarray) -> tuple[float, float]:
    """The same with one price: the lowest point is where a falling line meets a rising one."""
    falling, rising = np.flatnonzero(slopes < 0), np.flatnonzero(slopes >= 0)
    if not falling.size:
        return 0.0, float(heights.max())
    if not rising.size:
        return MAX_PRICE, float((heights + MAX_PRICE * slopes).max())
    meet = (heights[falling][:, None] - heights[rising]) / (slopes[rising] - slopes[falling][:, None])
    prices = np.unique(np.clip(meet, 0.0, MAX_PRICE))
    tops = (heights[:, None] + slopes[:, None] * prices).max(axis=0)
    best = int(np.argmin(tops))
    return float(prices[best]), float(tops[best])
