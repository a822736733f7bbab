"""What the sum of kernels does not explain of a network's latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: A slope outside these bounds comes from noise, not from caches or launches.
SLOPES = (0.7, 1.5)
#: What calling a kernel inside a network costs beyond calling it alone, before anything is measured:
#: mean and standard deviation.
LAUNCH_NS = (1000.0, 2000.0)
#: How far measured networks lie from the line, before anything is measured: relative, and for how
#: many networks that guess counts.
SPREAD = 0.015
SPREAD_WEIGHT = 2.0


@dataclass(frozen=True)
class Residual:
    """End-to-end latency as ``offset_ns + factor * (sum of kernels)``, measured per network.

    The factor is what the network's own cache state does to kernels that were timed alone, the
    offset what calling the module and its kernels costs. ``points`` are the (sum, measured) pairs
    behind it, ``spread`` the relative standard deviation of measured networks from the line.
    """

    offset_ns: float
    factor: float
    points: tuple[tuple[float, float], ...]
    spread: float = SPREAD

    @staticmethod
    def from_dense(sum_ns: float, measured_ns: float) -> Residual:
        """From the dense network alone: all of the difference goes to the factor."""
        return Residual(0.0, measured_ns / sum_ns, ((sum_ns, measured_ns),))

    @staticmethod
    def fit(points: Sequence[tuple[float, float]], kernels: int) -> Residual:
        """The line with the least relative errors through several networks of one family.

        Parameters
        ----------
        points
            (sum of kernels, measured latency) of each, nanoseconds; the first is the dense one's.
        kernels
            Kernel calls of such a network: what a call is known to cost steadies the offset where
            the networks are of similar size.
        """
        sums, measured = np.array(points, np.float64).T
        rows = np.stack([np.ones(len(points)) / measured, sums / measured], axis=1) / SPREAD
        known = np.array([[1.0 / (LAUNCH_NS[1] * kernels), 0.0]])
        wanted = np.concatenate([np.full(len(points), 1.0 / SPREAD), [LAUNCH_NS[0] / LAUNCH_NS[1]]])
        offset, factor = np.linalg.lstsq(np.concatenate([rows, known]), wanted, rcond=None)[0]
        offset = max(0.0, float(offset))
        if offset == 0.0:
            factor = np.sum(sums / measured) / np.sum((sums / measured) ** 2)
        errors = (offset + factor * sums) / measured - 1.0
        freedom = max(0.0, len(points) - 2.0)
        squares = float(np.sum(errors**2)) * (freedom / len(points) if freedom else 0.0)
        spread = np.sqrt((SPREAD_WEIGHT * SPREAD**2 + squares) / (SPREAD_WEIGHT + freedom))
        return Residual(offset, float(factor), tuple((s, m) for s, m in points), float(spread))

    def with_point(self, sum_ns: float, measured_ns: float) -> Residual:
        """Corrected by a pruned network: the line through it and the dense network.

        Where that line is implausible (two noisy points close together), the factor of the new
        point alone is taken: plans near it are what will be asked for next.
        """
        points = (*self.points, (sum_ns, measured_ns))
        dense_sum, dense_measured = self.points[0]
        if dense_sum != sum_ns:
            slope = (dense_measured - measured_ns) / (dense_sum - sum_ns)
            offset = measured_ns - slope * sum_ns
            if SLOPES[0] <= slope <= SLOPES[1] and offset >= 0:
                return Residual(offset, slope, points)
        return Residual(0.0, measured_ns / sum_ns, points)

    def latency_ns(self, sum_ns: float) -> float:
        """Predicted latency of a network from the sum of its kernels."""
        return self.offset_ns + self.factor * sum_ns
