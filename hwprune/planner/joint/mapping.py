"""From a vector to the one network that it stands for."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwprune.planner.joint.space import Space
from hwprune.planner.joint.stages import Stage
from hwprune.solve.problem import Choice, Problem

#: Fractions this little below a level count as the level: 48/64 must map to 48.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Architecture:
    """A choice of widths and blocks, at one of the offered input sizes (``variant``, from the least)."""

    variant: int
    choice: Choice

    @property
    def key(self) -> tuple[int, tuple[tuple[str, int], ...], tuple[str, ...]]:
        """For comparison and hashing."""
        return self.variant, tuple(sorted(self.choice.widths.items())), tuple(sorted(self.choice.removed))


class Mapping:
    """Vectors to architectures and back.

    A width is the nearest one on offer at or below its fraction of the full width; of a stage the
    first ``ceil(d * B)`` of its ``B`` removable blocks stay; the resolution is the nearest on offer.
    The mapping is monotone, and an architecture's own vector maps to it again.

    Parameters
    ----------
    space
        Coordinates.
    problem
        Domains; the same at all resolutions.
    stages
        Those of the space, in its order.
    variants
        Number of input sizes.
    """

    def __init__(self, space: Space, problem: Problem, stages: Sequence[Stage], variants: int = 1) -> None:
        self.space, self.problem, self.variants = space, problem, variants
        self.stages = {stage.name: stage for stage in stages}

    def at(self, v: np.ndarray) -> Architecture:
        """The architecture of a vector (clipped to its bounds)."""
        widths = dict(self.problem.dense.widths)
        removed: set[str] = set()
        variant = self.variants - 1
        for fraction, c in zip(self.space.clip(v).tolist(), self.space.coordinates, strict=True):
            if c.kind == "width":
                domain = self.problem.domain(c.name)
                widths[c.name] = domain.widths[bisect_right(c.levels, fraction + ROUNDING) - 1]
            elif c.kind == "depth":
                blocks = self.stages[c.name].blocks
                removed.update(blocks[math.ceil(fraction * len(blocks) - ROUNDING) :])
            else:
                variant = min(range(len(c.levels)), key=lambda i: abs(c.levels[i] - fraction))
        for domain in self.problem.domains:
            if domain.block in removed:
                widths[domain.group] = 0
        return Architecture(variant, Choice(widths, frozenset(removed)))

    def vector(self, architecture: Architecture, inside: np.ndarray | None = None) -> np.ndarray:
        """The vector of an architecture.

        Groups that went with their block take their fraction from ``inside`` (the full width by default).
        Of a stage only the number of blocks that stay counts.
        """
        found: list[float] = []
        choice = architecture.choice
        for i, c in enumerate(self.space.coordinates):
            if c.kind == "width":
                width = choice.widths[c.name]
                gone = 1.0 if inside is None else float(inside[i])
                found.append(width / self.problem.domain(c.name).widths[-1] if width else gone)
            elif c.kind == "depth":
                blocks = self.stages[c.name].blocks
                found.append(sum(b not in choice.removed for b in blocks) / len(blocks))
            else:
                found.append(c.levels[architecture.variant])
        return np.array(found)
