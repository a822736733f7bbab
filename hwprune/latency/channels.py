"""Patterns that move whole channels: shuffles, and the parts of a tensor that is cut in pieces."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from torch import fx

from hwprune.extent import Extent
from hwprune.latency import operators as ops
from hwprune.latency.kernel import AttributeValue

aten = ops.aten


@dataclass(frozen=True)
class OpenSize:
    """A number that follows tensor sizes: ``fixed`` plus ``factor`` times a dimension of a node.

    Terms are (node, axis in NCHW order, factor).
    """

    terms: tuple[tuple[fx.Node, int, int], ...]
    fixed: int = 0

    def extent(self, dims: Any) -> Extent:
        """The number as a function of group widths; ``dims`` gives the extents of a node."""
        fixed, found = self.fixed, dict[str, int]()
        for node, axis, factor in self.terms:
            size = dims(node)[axis]
            fixed += factor * size.fixed
            for group, k in size.terms:
                found[group] = found.get(group, 0) + factor * k
        return Extent(fixed, tuple((g, k) for g, k in found.items() if k))


@dataclass(frozen=True)
class StepOp:
    """An operator whose attributes may follow tensor sizes."""

    kind: str
    args: tuple[int, ...]
    attributes: tuple[tuple[str, AttributeValue | OpenSize | tuple[OpenSize, ...]], ...]


@dataclass(frozen=True)
class Shuffle:
    """A channel shuffle: ``source`` with its channels seen as [groups, C/groups] and transposed."""

    source: fx.Node
    result: fx.Node
    op: StepOp
    inside: tuple[fx.Node, ...]


def shuffle_at(node: fx.Node) -> Shuffle | None:
    """The shuffle that begins at ``node`` (a ``view`` to five dimensions), if one does."""
    if node.target is aten.channel_shuffle.default:
        groups: Any = node.args[1]
        return Shuffle(node.args[0], node, StepOp("channel_shuffle", (), (("groups", groups),)), ())  # type: ignore[arg-type]
    if node.target not in ops.RESHAPES:
        return None
    source: Any = node.args[0]
    before, split = ops.shape(source), ops.shape(node)
    if len(before) != 4 or len(split) != 5 or (split[0], *split[3:]) != (before[0], *before[2:]):
        return None
    inside, last = [node], node
    swapped = False
    while len(last.users) == 1:
        user = next(iter(last.users))
        if user.target is aten.transpose.int and not swapped:
            swapped = sorted(int(str(d)) % 5 for d in user.args[1:3]) == [1, 2]
            if not swapped:
                return None
        elif user.target is aten.permute.default and not swapped:
            swapped = [int(str(d)) % 5 for d in user.args[1]] == [0, 2, 1, 3, 4]  # type: ignore[union-attr]
            if not swapped:
                return None
        elif swapped and user.target in ops.RESHAPES and ops.shape(user) == before:
            groups = OpenSize(((node, 1, 1),))
            return Shuffle(source, user, StepOp("channel_shuffle", (), (("groups", groups),)), tuple(inside))
        elif user.target not in (aten.contiguous.default, aten.clone.default):
            return None
        inside.append(user)
        last = user
    return None


SPLITS = frozenset((aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default))


def slice_at(node: fx.Node) -> tuple[fx.Node, StepOp] | None:
    """Source and operator of a node that takes consecutive channels of a tensor, if it does."""
    if node.target is operator.getitem:
        split: Any = node.args[0]
        if split.target not in SPLITS or int(ops.arguments(split)["dim"]) % len(ops.shape(node)) != 1:
            return None
        source, part = split.args[0], int(str(node.args[1]))
        sizes = [int(v.shape[1]) for v in split.meta["val"]]
        parts = {int(str(user.args[1])): user for user in split.users}
        if split.target is aten.split_with_sizes.default or len(parts) == len(sizes) or len(set(sizes)) > 1:
            start = OpenSize(
                tuple((parts[i], 1, 1) for i in range(part) if i in parts),
                sum(sizes[i] for i in range(part) if i not in parts),
            )
        else:
            start = OpenSize(((node, 1, part),) if part else ())
    elif node.target is aten.slice.Tensor:
        a = ops.arguments(node)
        source = a["self"]
        size = ops.shape(source)
        if int(a["dim"]) % len(size) != 1 or int(a["step"]) != 1 or ops.shape(node)[1] == 0:
            return None
        first = int(a["start"] or 0)
        start = OpenSize((), max(0, first + size[1] if first < 0 else first))
    else:
        return None
    if len(ops.shape(source)) not in (2, 4):
        return None
    length = OpenSize(((node, 1, 1),))
    return source, StepOp("channel_slice", (), (("length", length), ("start", start)))
