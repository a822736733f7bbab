"""Rules of operators that repeat, join and pad positions."""

from __future__ import annotations

from itertools import pairwise

from torch import fx

from hwprune.dependency.arguments import argument, dimension, integer, integers, sizes_of
from hwprune.dependency.layout import Layout, scale
from hwprune.dependency.rules import rule
from hwprune.dependency.tracker import Barrier, Dims, Tracker, label

_LONG = 4096  # repetitions of one dimension that are still written out


@rule("cat", "concat", "concatenate")
def concatenate(t: Tracker, node: fx.Node) -> Dims:
    """Runs follow each other on one dimension; the others are tied."""
    tensors, parts = _list(t, node)
    out = list(parts[0])
    at = dimension(node, 1, len(out))
    _tie_others(t, node, parts, out, at)
    if all(part[at] is None for part in parts):
        return out
    runs: Layout = ()
    for tensor, part in zip(tensors, parts, strict=True):
        layout = part[at]
        size = sizes_of(tensor)[at]
        runs += layout if layout is not None else t.fixed(size, f"concatenated by {label(node)}")
    out[at] = runs
    return out


@rule("stack")
def stack(t: Tracker, node: fx.Node) -> Dims:
    """A new dimension, one position per tensor, which stays; the others are tied."""
    _, parts = _list(t, node)
    out = list(parts[0])
    at = dimension(node, 1, len(out) + 1)
    _tie_others(t, node, parts, out, -1)
    if len(parts) > 1:
        t.merges.add(node)
    return [*out[:at], None, *out[at:]]


def _list(t: Tracker, node: fx.Node) -> tuple[list[object], list[list[Layout | None]]]:
    tensors = node.args[0]
    if not isinstance(tensors, list | tuple):
        raise Barrier("its tensors are not a list")
    parts = [t.of(tensor) for tensor in tensors]
    if len({len(part) for part in parts}) != 1:
        raise Barrier("its tensors have different numbers of dimensions")
    return list(tensors), parts


def _tie_others(
    t: Tracker, node: fx.Node, parts: list[list[Layout | None]], out: list[Layout | None], at: int
) -> None:
    for part in parts[1:]:
        for dim, layout in enumerate(part):
            if dim != at and out[dim] is not layout:
                t.tie(out[dim], layout, node)


@rule("expand", "broadcast_to")
def expand(t: Tracker, node: fx.Node) -> Dims:
    """A repeated position follows whatever it is combined with later: its size is free."""
    x, before, after = t.of(node.args[0]), sizes_of(node.args[0]), sizes_of(node)
    lead = len(after) - len(before)
    out: list[Layout | None] = [t.open(size) for size in after[:lead]]
    for dim, layout in enumerate(x):
        if before[dim] == after[lead + dim]:
            out.append(layout)
        else:
            t.keep(layout, f"its one channel is repeated by {label(node)}")
            out.append(t.open(after[lead + dim]))
    return out


@rule("repeat", "tile")
def repeat(t: Tracker, node: fx.Node) -> Dims:
    """The same units again and again; a single repeated position is as in ``expand``."""
    x, before, after = t.of(node.args[0]), sizes_of(node.args[0]), sizes_of(node)
    lead = len(after) - len(before)
    out: list[Layout | None] = [t.open(size) for size in after[:lead]]
    for dim, layout in enumerate(x):
        times = after[lead + dim] // max(before[dim], 1)
        if times == 1 or layout is None:
            out.append(layout if times == 1 or before[dim] > 1 else t.open(after[lead + dim]))
        elif before[dim] == 1:
            t.keep(layout, f"its one channel is repeated by {label(node)}")
            out.append(t.open(after[lead + dim]))
        elif times * len(layout) > _LONG:
            raise Barrier(f"it repeats {times} times")
        else:
            out.append(layout * times)
    return out


@rule("repeat_interleave.self_int")
def repeat_interleave(t: Tracker, node: fx.Node) -> Dims:
    """Every position several times in a row."""
    x = list(t.of(node.args[0]))
    times = integer(node.args[1], "number of repetitions")
    if argument(node, 2, "dim") is None and len(x) != 1:
        raise Barrier("it flattens the tensor")
    if node.kwargs.get("output_size") is not None:
        raise Barrier("its number of positions is written down")
    dim = dimension(node, 2, len(x)) if len(x) > 1 else 0
    layout = x[dim]
    x[dim] = None if layout is None else scale(layout, times)
    return x


@rule("pad", "constant_pad_nd")
def pad(t: Tracker, node: fx.Node) -> Dims:
    """Padded channels are there always; the channels between them pass."""
    x = list(t.of(node.args[0]))
    counts = integers(node.args[1], "amounts")
    mode = node.args[2] if len(node.args) > 2 and isinstance(node.args[2], str) else "constant"
    for index, (low, high) in enumerate(list(pairwise(counts))[::2]):
        dim = len(x) - 1 - index
        layout = x[dim]
        if layout is None or (low == 0 and high == 0):
            continue
        if mode != "constant" or low < 0 or high < 0:
            t.keep(layout, f"padded by {label(node)}")
            x[dim] = None
            continue
        reason = f"padding channels of {label(node)}"
        x[dim] = (t.fixed(low, reason) if low else ()) + layout + (t.fixed(high, reason) if high else ())
    return x
