"""What the sum of kernels does not explain of a network's latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwprune.latency.predict import KernelSum

#: A slope outside these bounds comes from noise, not from caches or launches.
SLOPES = (0.7, 1.5)
#: What a kernel costs inside a network beyond alone, before anything is measured: mean and standard
#: deviation. Less than nothing where a network is small enough to keep its weights in a core's cache,
#: past which they are rotated when kernels are timed alone.
LAUNCH_NS = (-1000.0, 3000.0)
#: What a byte of weights costs inside a network beyond alone: there they come from further away.
BYTE_NS = (0.02, 0.01)
#: No network takes less than this share of its kernels.
LEAST_SHARE = 0.5
#: Relative error of a measured network, against which what is known beforehand is weighed.
NOISE = 0.015
#: How far measured networks lie from the line, before anything is measured: relative, and for how
#: many networks that guess counts.
SPREAD = 0.03
SPREAD_WEIGHT = 2.0


@dataclass(frozen=True)
class Residual:
    """End-to-end latency as ``offset_ns + factor * (sum of kernels) + byte_ns * (bytes of weights)``.

    The factor is what the network's own cache state does to kernels that were timed alone, the
    offset what calling the module and its kernels costs; bytes are those of weights that no core's
    cache keeps from run to run. ``points`` are the (sum, measured) pairs behind it, ``spread`` the
    relative standard deviation of measured networks from the prediction.
    """

    offset_ns: float
    factor: float
    points: tuple[tuple[float, float], ...]
    spread: float = SPREAD
    byte_ns: float = 0.0

    @staticmethod
    def from_dense(sum_ns: float, measured_ns: float) -> Residual:
        """From the dense network alone: all of the difference goes to the factor."""
        return Residual(0.0, measured_ns / sum_ns, ((sum_ns, measured_ns),))

    @staticmethod
    def fit(sums: Sequence[KernelSum], measured_ns: Sequence[float]) -> Residual:
        """The coefficients with the least relative errors for several networks of one family.

        What a call and a byte usually cost is known beforehand, loosely: that steadies the result where
        the networks are few or of similar size.

        Parameters
        ----------
        sums
            Kernels of each network; the first is the dense one.
        measured_ns
            Its latency, nanoseconds.
        """
        measured = np.array(measured_ns, np.float64)
        columns = np.array([[1.0, s.ns, s.streamed_bytes] for s in sums])
        known = np.array([[1.0 / (LAUNCH_NS[1] * sums[0].kernels), 0.0, 0.0], [0.0, 0.0, 1.0 / BYTE_NS[1]]])
        matrix = np.concatenate([columns / measured[:, None] / NOISE, known])
        wanted = [*np.full(len(sums), 1.0 / NOISE), LAUNCH_NS[0] / LAUNCH_NS[1], BYTE_NS[0] / BYTE_NS[1]]
        scale = np.abs(matrix).max(axis=0)
        offset, factor, byte_ns = np.linalg.lstsq(matrix / scale, np.array(wanted), rcond=None)[0] / scale
        errors = columns @ [offset, factor, byte_ns] / measured - 1.0
        freedom = max(0.0, len(sums) - 3.0)
        squares = float(np.mean(errors**2)) * freedom
        spread = np.sqrt((SPREAD_WEIGHT * SPREAD**2 + squares) / (SPREAD_WEIGHT + freedom))
        points = tuple((s.ns, float(m)) for s, m in zip(sums, measured, strict=True))
        return Residual(float(offset), float(factor), points, float(spread), float(byte_ns))

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

    def latency_ns(self, sum_ns: float, streamed_bytes: float = 0.0) -> float:
        """Predicted latency of a network from the sum of its kernels and the bytes of its weights."""
        latency = self.offset_ns + self.factor * sum_ns + self.byte_ns * streamed_bytes
        # Networks far smaller than those that the offset comes from still take time.
        return max(latency, LEAST_SHARE * sum_ns)
