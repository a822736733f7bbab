"""Rules of normalisation layers.

BatchNorm and InstanceNorm take statistics per channel: a removed channel changes nothing for the
others. GroupNorm takes them per group of neighbouring channels: whole groups are the units, and a
removed group changes nothing for the others.

LayerNorm, RMSNorm and GroupNorm with one group take statistics over all channels. No pruned model
can equal an original in which removed channels are zero but still counted. The width can be pruned
nevertheless, and the masked original says what the result means: a removed channel is left out of
the mean and the variance, as if the layer had never had it. Such groups list the norms in
:attr:`~hwprune.dependency.groups.ChannelGroup.statistics`; to keep the statistics of the original,
exclude the layers that produce the width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from hwprune.dependency.arguments import argument
from hwprune.dependency.layout import length, scale
from hwprune.dependency.rules import rule
from hwprune.dependency.tracker import Barrier, Dims, Tracker, fresh, label

STATISTICS = "statistics"


@rule("batch_norm", "instance_norm")
def batch_norm(t: Tracker, node: fx.Node) -> Dims:
    """Vectors over dimension 1; statistics never run across channels."""
    x = t.of(node.args[0])
    names = ("weight", "bias", "running_mean", "running_var")
    _vectors(t, node, x, 1, [argument(node, index, name) for index, name in enumerate(names, 1)])
    return [*x[:2], *_positions(t, node, x)]


@rule("group_norm")
def group_norm(t: Tracker, node: fx.Node) -> Dims:
    """A group of channels is a unit; with one group, statistics run across all channels."""
    x = t.of(node.args[0])
    count = argument(node, 1, "num_groups")
    if not isinstance(count, int):
        raise Barrier("its group count is not a constant")
    _vectors(t, node, x, 1, [argument(node, 2, "weight"), argument(node, 3, "bias")])
    if count == 1:
        t.read(node, node.args[0], 1, STATISTICS)
    elif x[1] is not None:
        t.tie(x[1], scale(fresh(count), length(x[1]) // count), node)
    return [*x[:2], *_positions(t, node, x)]


@rule("layer_norm", "rms_norm")
def layer_norm(t: Tracker, node: fx.Node) -> Dims:
    """Statistics run over the last dimensions, weight and bias have their sizes."""
    x = t.of(node.args[0])
    sizes = argument(node, 1, "normalized_shape")
    if not isinstance(sizes, list | tuple) or not len(sizes) <= len(x):
        raise Barrier("its normalised shape is not a constant")
    vectors = [argument(node, 2, "weight")]
    if "layer_norm" in str(node.target):
        vectors.append(argument(node, 3, "bias"))
    first = len(x) - len(sizes)
    for dim in range(first, len(x)):
        _vectors(t, node, x, dim, vectors, at=dim - first)
        t.read(node, node.args[0], dim, STATISTICS)
    return x


def _vectors(t: Tracker, node: fx.Node, x: Dims, dim: int, vectors: Sequence[object], at: int = 0) -> None:
    """Dimension ``at`` of the affine parameters follows dimension ``dim`` of the input."""
    for vector in vectors:
        if vector is not None:
            t.tie(x[dim], t.of(vector)[at], node)
            t.role(vector, at, "channelwise", node)


def _positions(t: Tracker, node: fx.Node, x: Dims) -> Dims:
    for layout in x[2:]:
        t.keep(layout, f"mixed by {label(node)}")
    return [None] * len(x[2:])
