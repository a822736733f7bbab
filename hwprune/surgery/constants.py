"""Constants in a graph that depend on widths: one small function per operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import fx

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


def _follow(old: object, sizes: tuple[int, ...]) -> list[int]:
    """New sizes, with -1 where the graph had -1."""
    before = list(old) if isinstance(old, list | tuple) else []
    return [-1 if b == -1 else size for b, size in zip(before, sizes, strict=True)]


@rewrite("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten.expand.default")
def _shape_argument(node: fx.Node) -> None:
    node.update_arg(1, _follow(node.args[1], new_sizes(node)))


@rewrite("aten.unflatten.int")
def _unflatten(node: fx.Node) -> None:
    dim, sizes = node.args[1], node.args[2]
    assert isinstance(dim, int) and isinstance(sizes, list | tuple)
    start = dim % len(_sizes(node, 0))
    node.update_arg(2, _follow(sizes, new_sizes(node)[start : start + len(sizes)]))


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
