"""What an architecture uses beyond its limits, and how that changes with the vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hwprune.planner.joint.mapping import Architecture, Mapping
from hwprune.planner.joint.space import Coordinate
from hwprune.solve.problem import Limit, Problem


class Penalty:
    """``sum over limits of max(0, T / T* - 1)^2``, from the prices of the problem itself.

    Parameters
    ----------
    mapping
        Vectors to architectures.
    problems
        One per input size, ascending, with the same domains.
    """

    def __init__(self, mapping: Mapping, problems: Sequence[Problem]) -> None:
        self.mapping, self.problems = mapping, tuple(problems)

    def value(self, architecture: Architecture) -> float:
        """The penalty, without its weight."""
        return sum(max(0.0, excess) ** 2 for excess in self._excess(architecture))

    def keeps(self, architecture: Architecture) -> bool:
        """Whether an architecture is within all limits, exactly."""
        problem = self.problems[architecture.variant]
        return all(problem.usage(limit, architecture.choice) <= limit.at_most for limit in _limits(problem))

    def share(self, architecture: Architecture) -> float:
        """The largest ``T / T*`` of all limits."""
        return 1.0 + max(self._excess(architecture), default=-1.0)

    def gradient(self, v: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """Finite differences of the penalty, without its weight, shape of ``v``.

        The prices are a table, so the slope along a coordinate is the difference between the levels
        that enclose ``v - sigma .. v + sigma`` there: no evaluation of the network, hence no noise.
        A coordinate that no limit depends on has a gradient of exactly 0.
        """
        found = np.zeros(len(v))
        excess = self._excess(self.mapping.at(v))
        if not any(e > 0 for e in excess):
            return found
        for i, coordinate in enumerate(self.mapping.space.coordinates):
            low, high = enclosing(coordinate, v[i] - sigma[i], v[i] + sigma[i])
            ends = [self._excess(self.mapping.at(_with(v, i, level))) for level in (low, high)]
            slopes = ((after - before) / (high - low) for before, after in zip(*ends, strict=True))
            found[i] = sum(2.0 * max(0.0, e) * slope for e, slope in zip(excess, slopes, strict=True))
        return found

    def _excess(self, architecture: Architecture) -> list[float]:
        problem = self.problems[architecture.variant]
        uses = ((problem.usage(limit, architecture.choice), limit.at_most) for limit in _limits(problem))
        return [used / at_most - 1.0 for used, at_most in uses]


def enclosing(coordinate: Coordinate, low: float, high: float) -> tuple[float, float]:
    """The narrowest two different levels that enclose an interval, as far as there are levels."""
    levels = coordinate.levels
    first = max((i for i, level in enumerate(levels) if level <= low), default=0)
    last = min((i for i, level in enumerate(levels) if level >= high), default=len(levels) - 1)
    if first == last:
        first, last = (first - 1, last) if first > 0 else (first, last + 1)
    return levels[first], levels[last]


def _limits(problem: Problem) -> list[Limit]:
    return [limit for limit in problem.limits if math.isfinite(limit.at_most)]


def _with(v: np.ndarray, i: int, value: float) -> np.ndarray:
    changed = v.copy()
    changed[i] = value
    return changed
