"""What the sum of kernels does not explain of a network's latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwprune.latency.predict import KernelSum

#: A factor outside these bounds comes from noise, not from caches or launches.
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
    """End-to-end latency as a linear function of what is known of a network's kernels.

    Attributes
    ----------
    launch_ns
        What calling one kernel costs, nanoseconds.
    factor
        What the network's own cache state does to kernels that were timed alone.
    byte_ns
        For every byte of weights that no core's cache keeps from run to run.
    spread
        Relative standard deviation of measured networks from the prediction.
    shift_ns
        What a network costs besides, as far as measured networks show it (:meth:`through_last`).
    points
        Kernels and latency of the networks behind it, the dense one first.
    """

    launch_ns: float
    factor: float
    byte_ns: float = 0.0
    spread: float = SPREAD
    shift_ns: float = 0.0
    points: tuple[tuple[KernelSum, float], ...] = ()

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
        columns = np.array([[s.kernels, s.ns, s.streamed_bytes] for s in sums])
        known = np.array([[1.0 / LAUNCH_NS[1], 0.0, 0.0], [0.0, 0.0, 1.0 / BYTE_NS[1]]])
        matrix = np.concatenate([columns / measured[:, None] / NOISE, known])
        wanted = [*np.full(len(sums), 1.0 / NOISE), LAUNCH_NS[0] / LAUNCH_NS[1], BYTE_NS[0] / BYTE_NS[1]]
        scale = np.abs(matrix).max(axis=0)
        launch, factor, byte_ns = np.linalg.lstsq(matrix / scale, np.array(wanted), rcond=None)[0] / scale
        errors = columns @ [launch, factor, byte_ns] / measured - 1.0
        freedom = max(0.0, len(sums) - 3.0)
        squares = float(np.mean(errors**2)) * freedom
        spread = np.sqrt((SPREAD_WEIGHT * SPREAD**2 + squares) / (SPREAD_WEIGHT + freedom))
        points = tuple((s, float(m)) for s, m in zip(sums, measured, strict=True))
        return Residual(float(launch), float(factor), float(byte_ns), float(spread), 0.0, points)

    def with_point(self, kernels: KernelSum, measured_ns: float) -> Residual:
        """Fitted to one more network, and then exact for it."""
        sums, times = zip(*self.points, (kernels, measured_ns), strict=True)
        return Residual.fit(sums, times).through_last()

    def through_last(self) -> Residual:
        """Corrected until it is exact for the network that was measured last.

        The next networks to be asked for are like the last one. What it takes beyond the fit is put
        on a line over the sum of kernels from the dense network's; where that line is implausible
        (two noisy points close together), the whole is scaled.
        """
        (dense, dense_ns), (last, last_ns) = self.points[0], self.points[-1]
        beyond, beyond_dense = last_ns - self._linear(last), dense_ns - self._linear(dense)
        if dense.ns != last.ns:
            slope = (beyond_dense - beyond) / (dense.ns - last.ns)
            shift = beyond - slope * last.ns
            fixed = self.launch_ns * last.kernels
            if SLOPES[0] <= self.factor + slope <= SLOPES[1] and fixed + shift >= min(0.0, fixed):
                return replace(self, factor=self.factor + slope, shift_ns=shift)
        scale = last_ns / self._linear(last)
        launch, factor, byte_ns = scale * self.launch_ns, scale * self.factor, scale * self.byte_ns
        return replace(self, launch_ns=launch, factor=factor, byte_ns=byte_ns)

    def latency_ns(self, kernels: KernelSum) -> float:
        """Predicted latency of a network."""
        # Networks far smaller than those that the launches come from still take time.
        return max(self._linear(kernels), LEAST_SHARE * kernels.ns)

    def _linear(self, kernels: KernelSum) -> float:
        fixed = self.shift_ns + self.launch_ns * kernels.kernels
        return fixed + self.factor * kernels.ns + self.byte_ns * kernels.streamed_bytes
