"""A network as a list of fused kernels: what the compiler takes and the predictor sums.

Plain data without torch: steps in execution order, BatchNorm already folded into the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwprune.latency.kernel import KernelSpec


@dataclass(frozen=True)
class Source:
    """Where a kernel input comes from: network input, earlier step, or weight, by number."""

    kind: str
    index: int


@dataclass(frozen=True)
class Step:
    """One kernel call. ``sources`` has one entry per ``spec.inputs``."""

    name: str
    spec: KernelSpec
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Program:
    """A whole network.

    ``weights`` hold logical (unpacked) float32 arrays whose shapes equal the matching
    ``spec.inputs``; ``outputs`` are steps (or, for a network that hands an input through, inputs).
    """

    input_shapes: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    outputs: tuple[Source, ...]
    weights: tuple[np.ndarray, ...]
