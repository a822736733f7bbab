"""Predicted latency of a network at any widths, with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwprune.latency.predict import LatencyModel
from hwprune.latency.table import LatencyTable
from hwprune.planner.residual import Residual

#: Half of a 95 % interval of a normal distribution, in standard deviations.
HALF_INTERVAL = 1.96
#: How far the width of a group strays from the level of a random choice, as a share of its domain.
STRAY = 0.25


@dataclass(frozen=True)
class Prediction:
    """Latency in nanoseconds; the interval covers 95 %.

    ``residual_ns`` is the part that is not the sum of kernels, ``interpolated`` the share (0..1) of the
    kernels' time that no row of the table says.
    """

    latency_ns: float
    low_ns: float
    high_ns: float
    kernels_ns: float
    residual_ns: float
    interpolated: float


def predict(
    model: LatencyModel, widths: Mapping[str, int], table: LatencyTable, residual: Residual
) -> Prediction:
    """Sum of kernels and residual.

    Raises
    ------
    KernelMissError
        A kernel is not in the table and does not lie between kernels that are; the message names it
        and its neighbours.
    """
    kernels = model.predict(widths, table)
    latency = residual.latency_ns(kernels)
    deviation = math.hypot(residual.factor * kernels.deviation_ns, residual.spread * latency)
    half = HALF_INTERVAL * deviation
    return Prediction(
        latency,
        max(0.0, latency - half),
        latency + half,
        kernels.ns,
        latency - kernels.ns,
        kernels.interpolated,
    )


def random_widths(domains: Mapping[str, Sequence[int]], random: np.random.Generator) -> dict[str, int]:
    """Widths as plans have them: a level for the whole network, from which every group strays.

    The level is uniform between the least and the full width, so that the networks are of all sizes;
    widths chosen independently would all have about the same latency.
    """
    level = random.uniform()
    found: dict[str, int] = {}
    for group, widths in domains.items():
        place = min(1.0, max(0.0, level + STRAY * random.standard_normal()))
        found[group] = int(widths[round(place * (len(widths) - 1))])
    return found
