"""The vector that is searched: fractions of widths, of blocks per stage, and of the resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from hwprune.planner.joint.stages import Stage
from hwprune.solve.problem import Problem


@dataclass(frozen=True)
class Coordinate:
    """One fraction of the vector.

    ``levels`` are the fractions that stand for different networks, ascending, the last one 1;
    ``name`` is that of the group or stage.
    """

    kind: Literal["width", "depth", "resolution"]
    name: str
    levels: tuple[float, ...]

    @property
    def gap(self) -> float:
        """Mean distance of neighbouring levels."""
        return (self.levels[-1] - self.levels[0]) / (len(self.levels) - 1)


@dataclass(frozen=True)
class Space:
    """All coordinates; vectors are float64 arrays in their order."""

    coordinates: tuple[Coordinate, ...]

    @staticmethod
    def of(problem: Problem, stages: Sequence[Stage] = (), sizes: Sequence[float] = ()) -> Space:
        """Coordinates of a problem.

        Parameters
        ----------
        problem
            Groups with more than one width get a coordinate each.
        stages
            Their removable blocks, of which only those that the problem knows count.
        sizes
            Sides of the inputs on offer (of a square of that area), ascending; one or none: no
            coordinate.
        """
        found = [
            Coordinate("width", d.group, tuple(w / d.widths[-1] for w in d.widths))
            for d in problem.domains
            if len(d.widths) > 1
        ]
        found += [
            Coordinate("depth", s.name, tuple(i / len(s.blocks) for i in range(len(s.blocks) + 1)))
            for s in stages
        ]
        if len(sizes) > 1:
            found.append(Coordinate("resolution", "resolution", tuple(s / sizes[-1] for s in sizes)))
        return Space(tuple(found))

    @cached_property
    def lower(self) -> np.ndarray:
        """Least fraction of each coordinate; the greatest is 1."""
        return np.array([c.levels[0] for c in self.coordinates])

    @property
    def dense(self) -> np.ndarray:
        """The vector of the unpruned network."""
        return np.ones(len(self.coordinates))

    def clip(self, v: np.ndarray) -> np.ndarray:
        """The nearest vector within the bounds."""
        return np.clip(v, self.lower, 1.0)

    def sigma(self, v: np.ndarray, share: float, first: float) -> np.ndarray:
        """Self-adapted standard deviation of each coordinate.

        It is ``share`` of the coordinate's value, so that every dimension changes by a comparable
        fraction; where levels lie far apart (few blocks, few resolutions) it is raised until, at
        the ``first`` share, a perturbation is as large as half of their distance, because networks
        that are all the same tell nothing.
        """
        gaps = np.array([c.gap for c in self.coordinates])
        return share * np.maximum(v, gaps / (2.0 * first))

    def uniform(self, rng: np.random.Generator) -> np.ndarray:
        """A random vector, uniform within the bounds."""
        return rng.uniform(self.lower, 1.0)
