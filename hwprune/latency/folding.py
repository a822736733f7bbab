"""Weights of a kernel, with the BatchNorm behind a convolution folded into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from hwprune.extent import Extent
from hwprune.latency.operators import arguments


@dataclass(frozen=True)
class Weight:
    """A constant input of a kernel.

    ``node`` is the ``get_attr`` node whose size decides this weight's size; ``per_channel`` weights
    are vectors over the node's first dimension; ``compute`` makes the float64 values from a
    function that reads a parameter by its node.
    """

    node: fx.Node
    per_channel: bool
    compute: Callable[[Callable[[Any], torch.Tensor]], torch.Tensor]

    def dims(self, dims: tuple[Extent, ...]) -> tuple[Extent, ...]:
        return dims[:1] if self.per_channel else dims

    def value(self, graph: fx.GraphModule) -> np.ndarray:
        """The values as float32."""

        def read(node: Any) -> torch.Tensor:
            owner: Any = graph
            for part in node.target.split("."):
                owner = getattr(owner, part)
            return owner.detach().double()

        return np.ascontiguousarray(self.compute(read).float().numpy())


def batch_norm_affine(norm: fx.Node) -> tuple[Weight, Weight]:
    """BatchNorm at inference as per-channel (scale, shift)."""
    vector: Any = norm.args[3]
    return (
        Weight(vector, True, lambda read: _scale(norm, read)),
        Weight(vector, True, lambda read: _shift(norm, read)),
    )


def fold_weight(node: fx.Node, norm: fx.Node | None) -> Weight:
    """Weight of a convolution or linear layer, times the scale of the BatchNorm behind it."""
    weight: Any = node.args[1]

    def compute(read: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        w = read(weight)
        return w if norm is None else w * _scale(norm, read).reshape(-1, *[1] * (w.ndim - 1))

    return Weight(weight, False, compute)


def bias_of(node: fx.Node, norm: fx.Node | None) -> Weight | None:
    """Bias with the BatchNorm folded in; None when there is neither."""
    bias: Any = arguments(node).get("bias")
    if norm is None:
        return None if bias is None else Weight(node.args[1], True, lambda read: read(bias))  # type: ignore[arg-type]

    def compute(read: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        shift = _shift(norm, read)
        return shift if bias is None else shift + read(bias) * _scale(norm, read)

    return Weight(node.args[1], True, compute)  # type: ignore[arg-type]


def _scale(norm: fx.Node, read: Callable[[Any], torch.Tensor]) -> torch.Tensor:
    a = arguments(norm)
    scale = torch.rsqrt(read(a["running_var"]) + float(a["eps"]))
    return scale if a["weight"] is None else scale * read(a["weight"])


def _shift(norm: fx.Node, read: Callable[[Any], torch.Tensor]) -> torch.Tensor:
    a = arguments(norm)
    shift = -read(a["running_mean"]) * _scale(norm, read)
    return shift if a["bias"] is None else shift + read(a["bias"])
