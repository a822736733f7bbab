"""Rules of operators that merge and split dimensions: reshapes, pixel shuffles, patches as columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import fx

from hwprune.dependency.arguments import integer, integers, line_up, permutation, sizes_of
from hwprune.dependency.carrier import carrier
from hwprune.dependency.layout import Layout, length, resolve, scale
from hwprune.dependency.rules import rule
from hwprune.dependency.tracker import Barrier, Dims, Tracker, fresh, label

_LONG = 4096  # repetitions of one dimension that are still written out


@rule("reshape_as", "view_as")
def reshape_as(t: Tracker, node: fx.Node) -> Dims:
    """A reshape to the sizes of another tensor, which have to stay the right ones."""
    out = _reshaped(t, node)
    for own, other in zip(out, t.of(node.args[1]), strict=True):
        if own is not None or other is not None:
            t.tie(own, other, node)
    return out


@rule("view", "reshape", "_unsafe_view", "flatten.using_ints", "unflatten.int", "squeeze", "squeeze.dim")
@rule("squeeze.dims", "unsqueeze", "ravel", "view_copy", "_reshape_alias", "atleast_2d", "atleast_3d")
def reshape(t: Tracker, node: fx.Node) -> Dims:
    """Dimensions are lined up by their products; merged and split ones become blocks.

    Merging [A, C, B] with units on C puts every unit on B consecutive positions, and all that A
    times; A and B must stay. Splitting [C] makes one of the factors carry the units (see
    :mod:`hwprune.dependency.carrier`); the others stay.
    """
    return _reshaped(t, node)


def _reshaped(t: Tracker, node: fx.Node) -> list[Layout | None]:
    x, before, after = t.of(node.args[0]), sizes_of(node.args[0]), sizes_of(node)
    out: list[Layout | None] = [None] * len(after)
    for sources, results in line_up(before, after):
        big_in = [dim for dim in sources if before[dim] > 1]
        big_out = [dim for dim in results if after[dim] > 1]
        if len(big_in) <= 1 and len(big_out) <= 1:
            _move(t, node, x, sources, results, before, after, out)
            continue
        for dim in set(sources) - set(big_in):
            t.keep(x[dim], f"its one channel is reshaped by {label(node)}")
        merged = _merge(t, node, x, big_in, before)
        if merged is None:
            continue
        if len(big_out) == 1:
            out[big_out[0]] = merged
            continue
        chosen = carrier(node, big_out, merged)
        out[chosen] = _split(t, node, merged, big_out, chosen, after)
    return out


def _move(
    t: Tracker,
    node: fx.Node,
    x: Dims,
    sources: list[int],
    results: list[int],
    before: tuple[int, ...],
    after: tuple[int, ...],
    out: list[Layout | None],
) -> None:
    """A dimension that keeps its size, among dimensions of one position that come and go."""
    big = [d for d in results if after[d] > 1]
    for dim in sources:
        if before[dim] > 1:
            out[big[0]] = x[dim]
        elif len(sources) == len(results):
            out[results[sources.index(dim)]] = x[dim]
        else:
            t.keep(x[dim], f"its one channel is reshaped by {label(node)}")


def _merge(t: Tracker, node: fx.Node, x: Dims, dims: Sequence[int], before: tuple[int, ...]) -> Layout | None:
    """One of the merged dimensions carries its units on; the others stay."""
    carrying = [dim for dim in dims if x[dim] is not None]
    if not carrying:
        return None
    idle = t.free | t.kept
    tied = [dim for dim in carrying if not all(axis in idle for axis, _ in resolve(x[dim] or ()))]
    chosen = (tied or carrying)[0]
    for dim in carrying:
        if dim != chosen:
            t.keep(x[dim], f"merged with another dimension by {label(node)}")
    at = list(dims).index(chosen)
    times = math.prod(before[d] for d in dims[:at])
    layout = x[chosen] or ()
    if times * len(layout) > _LONG:
        t.keep(layout, f"repeated {times} times by {label(node)}")
        return None
    return scale(layout, math.prod(before[d] for d in dims[at + 1 :])) * times


def _split(
    t: Tracker, node: fx.Node, merged: Layout, dims: Sequence[int], chosen: int, after: tuple[int, ...]
) -> Layout | None:
    at = list(dims).index(chosen)
    layout = fresh(after[chosen])
    times = math.prod(after[d] for d in dims[:at])
    if times > _LONG:
        t.keep(merged, f"split into {times} repetitions by {label(node)}")
        return None
    t.tie(merged, scale(layout, math.prod(after[d] for d in dims[at + 1 :])) * times, node)
    return layout


@rule("permute", "transpose.int", "t", "swapaxes", "swapdims", "mT", "numpy_T", "adjoint")
@rule("movedim.int", "movedim.intlist")
def permute(t: Tracker, node: fx.Node) -> Dims:
    """Dimensions change places."""
    x, order = t.of(node.args[0]), permutation(node)
    if order is None:
        raise Barrier("its order is not known")
    return [x[dim] for dim in order]


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(t: Tracker, node: fx.Node) -> Dims:
    """r*r consecutive channels become, or come from, one channel with r times the resolution."""
    x, factor = t.of(node.args[0]), integer(node.args[1], "factor") ** 2
    for layout in x[-2:]:
        t.keep(layout, f"mixed by {label(node)}")
    layout = x[-3]
    if "unshuffle" in str(node.target):
        return [*x[:-3], None if layout is None else scale(layout, factor), None, None]
    return [*x[:-3], _grouped(t, node, layout, factor), None, None]


def _grouped(t: Tracker, node: fx.Node, layout: Layout | None, factor: int) -> Layout | None:
    """Every ``factor`` consecutive positions are one unit of the result."""
    if layout is None:
        return None
    out = fresh(length(layout) // factor)
    t.tie(layout, scale(out, factor), node)
    return out


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(t: Tracker, node: fx.Node) -> Dims:
    """Positions of the same rank in every group become neighbours: they are one unit."""
    x, groups = t.of(node.args[0]), integer(node.args[1], "group count")
    layout = x[1]
    if layout is None:
        return x
    unit = fresh(length(layout) // groups)
    t.tie(layout, unit * groups, node)
    return [x[0], scale(unit, groups), *x[2:]]


@rule("im2col", "col2im")
def columns(t: Tracker, node: fx.Node) -> Dims:
    """Patches as columns: every channel has one position per tap of the window."""
    x = t.of(node.args[0])
    backwards = "col2im" in str(node.target)
    taps = math.prod(integers(node.args[2 if backwards else 1], "window sizes"))
    lead = len(x) - (2 if backwards else 3)
    for layout in x[lead + 1 :]:
        t.keep(layout, f"mixed by {label(node)}")
    layout = x[lead]
    if backwards:
        return [*x[:lead], _grouped(t, node, layout, taps), None, None]
    return [*x[:lead], None if layout is None else scale(layout, taps), None]
