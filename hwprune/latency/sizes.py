"""Sizes of nodes that fusion puts into a graph, or gives another shape, in terms of captured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from hwprune.extent import Extent
from hwprune.latency.operators import shape

#: A dimension of a captured node, by name and axis; None stands for a 1.
Origin = tuple[str, int] | None
_KEY = "hwprune_origins"


def set_origins(node: fx.Node, origins: Sequence[Origin]) -> None:
    """Say where each dimension of a node comes from."""
    node.meta[_KEY] = tuple(origins)


def own_origins(node: fx.Node) -> tuple[Origin, ...]:
    """Where the dimensions of a node come from: its own, unless said otherwise."""
    said = node.meta.get(_KEY)
    return tuple((node.name, axis) for axis in range(len(shape(node)))) if said is None else said


def open_shape(node: fx.Node, extents: Mapping[str, Sequence[Extent]]) -> tuple[Extent, ...]:
    """The shape of a node as functions of group widths.

    Parameters
    ----------
    node
        Of a captured graph, or of one rewritten by fusion.
    extents
        Shapes of captured nodes by name; where one is missing, sizes are fixed.
    """

    def extent(origin: Origin, size: int) -> Extent:
        known = None if origin is None else extents.get(origin[0])
        return Extent(size) if origin is None or known is None else known[origin[1]]

    return tuple(extent(o, n) for o, n in zip(own_origins(node), shape(node), strict=True))
