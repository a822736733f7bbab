"""What the sum of kernels does not explain of a network's latency."""

from __future__ import annotations

from dataclasses import dataclass

#: A slope outside these bounds comes from noise, not from caches or launches.
SLOPES = (0.7, 1.5)


@dataclass(frozen=True)
class Residual:
    """End-to-end latency as ``offset_ns + factor * (sum of kernels)``, measured per network.

    The factor is what the network's own cache state does to kernels that were timed alone, the
    offset what calling the module costs. ``points`` are the (sum, measured) pairs behind it.
    """

    offset_ns: float
    factor: float
    points: tuple[tuple[float, float], ...]

    @staticmethod
    def from_dense(sum_ns: float, measured_ns: float) -> Residual:
        """From the dense network alone: all of the difference goes to the factor."""
        return Residual(0.0, measured_ns / sum_ns, ((sum_ns, measured_ns),))

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
