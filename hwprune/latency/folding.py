"""Weights of a kernel, with what follows a convolution channel by channel folded into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from hwprune.extent import Extent
from hwprune.latency.operators import arguments, read_attribute

Read = Callable[[Any], torch.Tensor]
#: Where the dimensions of a weight come from: an axis of its node, or a size that is fixed.
Axes = tuple[int | Extent, ...]
ONE = Extent(1)


@dataclass(frozen=True)
class Weight:
    """A constant input of a kernel.

    ``node`` is the node whose size decides this weight's size, dimension by dimension as ``axes``
    says (None: all of them, in order); ``compute`` makes the float64 values from a function that
    reads a parameter by its node.
    """

    node: fx.Node
    axes: Axes | None
    compute: Callable[[Read], torch.Tensor]

    def dims(self, dims: tuple[Extent, ...]) -> tuple[Extent, ...]:
        if self.axes is None:
            return dims
        return tuple(dims[a] if isinstance(a, int) else a for a in self.axes)

    def value(self, graph: fx.GraphModule) -> np.ndarray:
        """The values as float32."""

        def read(node: Any) -> torch.Tensor:
            return read_attribute(graph, node).detach().double()

        return np.ascontiguousarray(self.compute(read).float().numpy())


@dataclass(frozen=True)
class Affine:
    """``x * scale + shift``: vectors over the channels, or numbers.

    ``vector`` and ``axis`` name a dimension that is as long as there are channels; ``numbers``
    is (scale, shift) if both are known numbers.
    """

    vector: fx.Node | None
    axis: int
    scale: Callable[[Read], torch.Tensor]
    shift: Callable[[Read], torch.Tensor]
    numbers: tuple[float, float] | None = None

    @staticmethod
    def of_numbers(scale: float, shift: float) -> Affine:
        def constant(value: float) -> Callable[[Read], torch.Tensor]:
            return lambda read: torch.tensor(value, dtype=torch.float64)

        return Affine(None, 0, constant(scale), constant(shift), (scale, shift))

    def weights(self) -> tuple[Weight, Weight]:
        """Inputs of a ``scale_shift``."""
        assert self.vector is not None
        axes = (self.axis,)
        return (
            Weight(self.vector, axes, lambda read: torch.atleast_1d(self.scale(read)).clone()),
            Weight(self.vector, axes, lambda read: torch.atleast_1d(self.shift(read)).clone()),
        )


def batch_norm_affine(norm: fx.Node) -> Affine:
    """BatchNorm at inference."""
    a = arguments(norm)

    def scale(read: Read) -> torch.Tensor:
        inverse = torch.rsqrt(read(a["running_var"]) + float(a["eps"]))
        return inverse if a["weight"] is None else inverse * read(a["weight"])

    def shift(read: Read) -> torch.Tensor:
        moved = -read(a["running_mean"]) * scale(read)
        return moved if a["bias"] is None else moved + read(a["bias"])

    return Affine(a["running_mean"], 0, scale, shift)


def operand_affine(kind: str, flipped: bool, vector: fx.Node, axis: int, value: Any) -> Affine | None:
    """Arithmetic with a constant as an affine map of the other operand.

    Parameters
    ----------
    kind
        ``add``, ``sub``, ``mul`` or ``div``.
    flipped
        The constant is the first operand.
    vector, axis
        A dimension that is as long as there are channels.
    value
        ``read -> tensor`` of one element per channel.
    """
    if kind == "div" and flipped:
        return None

    def one(read: Read) -> torch.Tensor:
        return torch.ones_like(value(read))

    def zero(read: Read) -> torch.Tensor:
        return torch.zeros_like(value(read))

    pairs = {
        "add": (one, value),
        "sub": (lambda read: -one(read), value) if flipped else (one, lambda read: -value(read)),
        "mul": (value, zero),
        "div": (lambda read: 1 / value(read), zero),
    }
    return Affine(vector, axis, *pairs[kind])


def number_affine(kind: str, flipped: bool, value: float) -> Affine | None:
    """Arithmetic with a number as an affine map of the other operand."""
    if kind == "div":
        return None if flipped or value == 0 else Affine.of_numbers(1 / value, 0.0)
    if kind == "mul":
        return Affine.of_numbers(value, 0.0)
    if kind == "add":
        return Affine.of_numbers(1.0, value)
    return Affine.of_numbers(-1.0, value) if flipped else Affine.of_numbers(1.0, -value)


def fold(
    weight: Weight, bias: Weight | None, behind: Sequence[Affine], channels: fx.Node, axis: int
) -> tuple[Weight, Weight | None]:
    """Weight and bias of a layer with the affine maps behind it multiplied in.

    Output channels are dimension 0 of the weight; ``axis`` of ``channels`` is as long.
    """
    if not behind:
        return weight, bias

    def scaled(read: Read) -> torch.Tensor:
        w = weight.compute(read)
        for affine in behind:
            w = w * affine.scale(read).reshape(-1, *[1] * (w.ndim - 1))
        return w

    def shifted(read: Read) -> torch.Tensor:
        size = weight.compute(read).shape[0]
        total = torch.zeros(size, dtype=torch.float64) if bias is None else bias.compute(read)
        for affine in behind:
            total = total * affine.scale(read) + affine.shift(read)
        return total

    new = Weight(weight.node, weight.axes, scaled)
    if bias is None and all(a.numbers is not None and a.numbers[1] == 0 for a in behind):
        return new, None
    return new, Weight(channels, (axis,), shifted)
