"""What layers read and write at sampled positions: rows for regressions, without whole maps in memory.

Positions are drawn from a seed, the layer's name and the number of the batch, and from nothing
else: a second network with the same layer (a pruned one, say) is sampled at the same places.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import fx

from hwprune.dependency.arguments import argument
from hwprune.errors import CriterionError
from hwprune.importance.consumers import Consumer

#: Above so many positions, some of an example's may coincide: drawing without that costs memory.
_DISTINCT = 4096


@dataclass(frozen=True)
class Rows:
    """What a layer read and wrote at ``n`` positions.

    Attributes
    ----------
    x
        ``[n, groups, C_in/groups * k*k]``, in the order of the flattened weight ``[C_out, C_in/groups,
        k, k]``; zeros where the filter reaches into the padding.
    y
        ``[n, groups, C_out/groups]``, the bias included.
    """

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Positions:
    """Draws positions of a layer's output; the same ones whenever it is asked again.

    Parameters
    ----------
    per_example
        How many positions of every example; all where there are no more.
    seed
        Another seed gives other positions.
    """

    per_example: int = 10
    seed: int = 0

    def draw(self, layer: str, batch: int, rows: int, spots: int, examples: int) -> torch.Tensor:
        """Positions ``[rows, p]``, numbers below ``spots``, of every entry of the first dimension.

        Parameters
        ----------
        layer, batch
            Name of the layer's node, and number of the batch.
        rows, spots
            Size of the output's first dimension, and positions behind each.
        examples
            Examples in the batch. Where a layer sees each as several rows (windows), they share
            the positions that an example has.
        """
        wanted = max(1, math.ceil(self.per_example * max(1, examples) / max(1, rows)))
        if wanted >= spots:
            return torch.arange(spots).expand(rows, spots)
        seed = zlib.crc32(f"{self.seed}/{layer}/{batch}".encode())
        generator = torch.Generator().manual_seed(seed)
        if spots <= _DISTINCT:
            return torch.rand(rows, spots, generator=generator).topk(wanted, dim=1).indices
        return torch.randint(spots, (rows, wanted), generator=generator)


def spots_of(consumer: Consumer, output: torch.Tensor) -> int:
    """Positions of an output behind its first dimension."""
    inner = output.shape[2:] if consumer.kind == "convolution" else output.shape[1:-1]
    return math.prod(inner)


def outputs_at(consumer: Consumer, output: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Values of an output (or of another tensor of its shape) at positions ``[rows, p]``.

    Returns
    -------
    torch.Tensor
        ``[rows * p, C_out]``.
    """
    at = at.to(output.device)
    if consumer.kind == "convolution":
        channels = output.shape[1]
        picked = output.flatten(2).gather(2, at[:, None, :].expand(-1, channels, -1))
        return picked.transpose(1, 2).reshape(-1, channels)
    channels = output.shape[-1]
    if output.ndim == 1:
        return output[None]
    flat = output.reshape(output.shape[0], -1, channels)
    return flat.gather(1, at[:, :, None].expand(-1, -1, channels)).reshape(-1, channels)


def inputs_at(
    consumer: Consumer, node: fx.Node, x: torch.Tensor, at: torch.Tensor, spatial: Sequence[int]
) -> torch.Tensor:
    """What the layer reads for its output at positions ``[rows, p]``.

    ``spatial`` is the size of the output behind its channels (convolutions).

    Returns
    -------
    torch.Tensor
        ``[rows * p, groups, C_in/groups * k*k]``.
    """
    if consumer.kind == "linear":
        return outputs_at(consumer, x, at)[:, None, :]
    rank = x.ndim - 2
    sizes = [int(n) for n in cast("fx.Node", node.args[1]).meta["val"].shape[2:]]
    strides, dilations = _each(node, 3, "stride", rank), _each(node, 5, "dilation", rank)
    pads = _pads(argument(node, 4, "padding", 0), sizes, dilations, rank)
    if any(before or after for before, after in pads):
        # torch pads the last dimension first.
        x = F.pad(x, [side for pair in reversed(pads) for side in pair])
    # Flat index into the padded map, for every position and every entry of the filter.
    index = torch.zeros(*at.shape, 1, dtype=torch.long)
    places = torch.unravel_index(at, list(spatial))
    offsets = torch.meshgrid(*(torch.arange(n) for n in sizes), indexing="ij")
    for dim in range(rank):
        along = places[dim][..., None] * strides[dim] + offsets[dim].flatten() * dilations[dim]
        index = index * int(x.shape[2 + dim]) + along
    index = index.flatten(1).to(x.device)
    picked = x.flatten(2).gather(2, index[:, None, :].expand(-1, x.shape[1], -1))
    picked = picked.unflatten(2, (at.shape[1], -1)).transpose(1, 2)
    return picked.reshape(picked.shape[0] * picked.shape[1], consumer.groups, -1)


def rows_of(consumer: Consumer, node: fx.Node, x: torch.Tensor, y: torch.Tensor, at: torch.Tensor) -> Rows:
    """Rows of a layer from what it read and wrote as a whole.

    Raises
    ------
    CriterionError
        The values are not finite.
    """
    rows = Rows(
        inputs_at(consumer, node, x, at, y.shape[2:]),
        outputs_at(consumer, y, at).unflatten(1, (consumer.groups, -1)),
    )
    if not bool(torch.isfinite(rows.x).all() and torch.isfinite(rows.y).all()):
        raise CriterionError(
            f"what {consumer.node} ({consumer.weight}) reads or writes is not finite",
            hint="look for NaN or infinite values in the data and the weights",
        )
    return rows


def _each(node: fx.Node, index: int, name: str, rank: int) -> list[int]:
    value = argument(node, index, name, 1)
    return _spread(value, rank)


def _spread(value: object, rank: int) -> list[int]:
    items = [int(v) for v in cast("Iterable[int]", value)] if isinstance(value, list | tuple) else None
    if items is None:
        return [int(cast("int", value))] * rank
    return list(itertools.islice(itertools.cycle(items), rank))


def _pads(
    padding: object, sizes: Sequence[int], dilations: Sequence[int], rank: int
) -> list[tuple[int, int]]:
    """Zeros before and after every dimension."""
    if padding == "valid":
        return [(0, 0)] * rank
    if padding == "same":
        totals = [dilation * (size - 1) for size, dilation in zip(sizes, dilations, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(n, n) for n in _spread(padding, rank)]
