"""Constants in a graph that depend on widths: one small function per operator."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import fx

from hwprune.dependency.arguments import argument

Rewrite: TypeAlias = Callable[[fx.Node], None]

REWRITES: dict[str, Rewrite] = {}


def rewrite(*operators: str) -> Callable[[Rewrite], Rewrite]:
    """Register the function that adapts an operator's constants (``"aten.view.default"``).

    The function finds the new shape of any node with :func:`new_sizes`.
    """

    def register(function: Rewrite) -> Rewrite:
        for operator in operators:
            REWRITES[operator] = function
        return function

    return register


def rewrite_constants(node: fx.Node) -> None:
    """Adapt the constants of one node; nodes of other operators stay as they are."""
    function = REWRITES.get(str(node.target)) if node.op == "call_function" else None
    if function is not None:
        function(node)


def new_sizes(node: object) -> tuple[int, ...]:
    """Shape that a node will have after the cut."""
    assert isinstance(node, fx.Node)
    return node.meta["hwprune_sizes"]


def new_pieces(node: fx.Node) -> tuple[int, ...] | None:
    """Sizes that the parts of a dimension taken apart by a node will have, None if they stay."""
    return node.meta.get("hwprune_pieces")


def _follow(old: object, sizes: tuple[int, ...]) -> list[int]:
    """New sizes, with -1 where the graph had -1."""
    before = list(old) if isinstance(old, list | tuple) else []
    return [-1 if b == -1 else size for b, size in zip(before, sizes, strict=True)]


@rewrite("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten.expand.default")
@rewrite("aten.broadcast_to.default", "aten.view_copy.default")
@rewrite(*(f"aten.new_{kind}.default" for kind in ("zeros", "ones", "full", "empty")))
def _shape_argument(node: fx.Node) -> None:
    node.update_arg(1, _follow(node.args[1], new_sizes(node)))


@rewrite("aten.unflatten.int")
def _unflatten(node: fx.Node) -> None:
    dim, sizes = node.args[1], node.args[2]
    assert isinstance(dim, int) and isinstance(sizes, list | tuple)
    start = dim % len(_sizes(node, 0))
    node.update_arg(2, _follow(sizes, new_sizes(node)[start : start + len(sizes)]))


@rewrite("aten.zeros.default", "aten.ones.default", "aten.full.default", "aten.empty.memory_format")
def _factory(node: fx.Node) -> None:
    node.update_arg(0, _follow(node.args[0], new_sizes(node)))


@rewrite("aten.repeat.default", "aten.tile.default")
def _repeat(node: fx.Node) -> None:
    """A single position is repeated as often as the result has positions."""
    counts, sizes, source = node.args[1], new_sizes(node), _sizes(node, 0)
    assert isinstance(counts, list | tuple)
    source = (1,) * (len(sizes) - len(source)) + source
    times = [new // old for new, old in zip(sizes, source, strict=True)]
    node.update_arg(1, times[len(times) - len(counts) :])


@rewrite("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default", "aten.split.sizes")
@rewrite("aten.tensor_split.indices", "aten.tensor_split.sections", "aten.unsafe_split_with_sizes.default")
@rewrite("aten.unsafe_split.Tensor", "aten.unsafe_chunk.default")
def _split(node: fx.Node) -> None:
    """Pieces of the new sizes, by the same operator where it still makes them."""
    sizes = new_pieces(node)
    if sizes is None or list(sizes) == _made(node, sum(sizes)):
        return
    source, dim = argument(node, 0, "self"), argument(node, 2, "dim", 0)
    assert isinstance(source, fx.Node) and isinstance(dim, int)
    node.target = torch.ops.aten.split_with_sizes.default
    node.args, node.kwargs = (source, list(sizes), dim), {}


def _made(node: fx.Node, total: int) -> list[int]:
    """Sizes of the pieces that a node makes of ``total`` positions."""
    given = node.args[1]
    assert isinstance(given, int | list | tuple)
    line = torch.empty(total, device="meta")
    name = str(node.target)
    if "chunk" in name:
        made: Sequence[torch.Tensor] = torch.chunk(line, int(str(given)))
    elif "tensor_split" in name:
        made = torch.tensor_split(line, given if isinstance(given, int) else [int(str(g)) for g in given])
    elif isinstance(given, int):
        made = torch.split(line, given)
    else:
        return [int(str(size)) for size in given]
    return [int(piece.shape[0]) for piece in made]


@rewrite("aten.slice.Tensor", "aten.narrow.default")
def _slice(node: fx.Node) -> None:
    """Begin behind what is left before the slice; an end that is the dimension's stays open."""
    parts = new_pieces(node)
    if parts is None:
        if "narrow" in str(node.target):
            node.update_arg(3, new_sizes(node)[int(str(node.args[1]))])
        return
    start, count = parts
    source, dim = argument(node, 0, "self"), argument(node, 1, "dim", 0)
    assert isinstance(source, fx.Node) and isinstance(dim, int)
    if "narrow" in str(node.target):
        node.args, node.kwargs = (source, dim, start, count), {}
        return
    end = sys.maxsize if start + count == new_sizes(source)[dim] else start + count
    node.args, node.kwargs = (source, dim, start, end), {}


@rewrite(*(f"aten.conv{n}d.{overload}" for n in (1, 2, 3) for overload in ("default", "padding")))
def _group_count(node: fx.Node) -> None:
    """Depthwise convolutions have one group per channel left; other group counts stay.

    A grouped convolution of which one channel per group is left is depthwise from now on: its
    channels are as many as its groups, so the same count is right.
    """
    old = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    source, weight = _sizes(node, 0), _sizes(node, 1)
    if not isinstance(old, int) or old == 1 or weight[1] != 1:
        return
    groups = source[len(source) - len(weight) + 1]
    if len(node.args) > 6:
        node.update_arg(6, groups)
    else:
        node.update_kwarg("groups", groups)


def _sizes(node: fx.Node, argument: int) -> tuple[int, ...]:
    return new_sizes(node.args[argument])
