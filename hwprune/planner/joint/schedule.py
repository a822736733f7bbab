"""When the vector moves, how far, and which networks the weights are trained in."""

from __future__ import annotations

import math

import numpy as np

from hwprune.planner.joint.options import JointOptions
from hwprune.planner.joint.space import Space


class Schedule:
    """The course of a search; steps of the weights are counted from 0."""

    def __init__(self, options: JointOptions) -> None:
        self.options = options

    def is_warmup(self, step: int) -> bool:
        """Whether the vector still rests."""
        return step < self.options.warmup_steps

    def moves(self, step: int) -> bool:
        """Whether the vector moves after this step of the weights."""
        since = step - self.options.warmup_steps + 1
        return since > 0 and since % self.options.every == 0

    def sigma(self, step: int) -> float:
        """Relative perturbation, falling along a cosine once the vector moves."""
        return self._falling(step, self.options.sigma, self.options.sigma_end)

    def eta(self, step: int) -> float:
        """Length of a step of the vector, falling likewise."""
        return self._falling(step, self.options.eta, self.options.eta_end)

    def vectors(self, step: int, v: np.ndarray, space: Space, rng: np.random.Generator) -> list[np.ndarray]:
        """Vectors of the networks that share one step of the weights.

        During the warm-up the largest, the smallest and a random one (the sandwich rule); then
        samples around ``v``.
        """
        if self.is_warmup(step):
            return [space.dense, space.lower, space.uniform(rng)]
        sigma = space.sigma(v, self.sigma(step), self.options.sigma)
        return [space.clip(v + sigma * rng.standard_normal(len(v))) for _ in range(self.options.samples)]

    def _falling(self, step: int, first: float, last: float) -> float:
        start = self.options.warmup_steps
        done = max(0, step - start) / max(1, self.options.iterations - 1 - start)
        return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
