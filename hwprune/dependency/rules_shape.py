"""Rules of operators that move positions: concatenation, reshapes, permutations, padding."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import fx

from hwprune.dependency.layout import Layout, scale
from hwprune.dependency.rules import rule
from hwprune.dependency.tracker import Barrier, Dims, Tracker, fresh, label, shape


@rule("cat")
def concatenate(t: Tracker, node: fx.Node) -> Dims:
    """Runs follow each other on one dimension; the others are tied."""
    tensors = node.args[0]
    if not isinstance(tensors, list | tuple):
        raise Barrier("its tensors are not a list")
    parts = [t.of(tensor) for tensor in tensors]
    at = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if not isinstance(at, int) or len({len(part) for part in parts}) != 1:
        raise Barrier("its dimension is not a constant")
    out = list(parts[0])
    at %= len(out)
    for part in parts[1:]:
        for dim, layout in enumerate(part):
            if dim != at and out[dim] is not layout:
                t.tie(out[dim], layout, node)
    if all(part[at] is None for part in parts):
        out[at] = None
        return out
    runs: Layout = ()
    for tensor, part in zip(tensors, parts, strict=True):
        layout = part[at]
        sizes = _sizes(tensor)
        runs += layout if layout is not None else t.fixed(sizes[at], f"concatenated by {label(node)}")
    out[at] = runs
    return out


@rule("view", "reshape", "_unsafe_view", "flatten.using_ints", "unflatten.int", "squeeze", "squeeze.dim")
@rule("squeeze.dims", "unsqueeze")
def reshape(t: Tracker, node: fx.Node) -> Dims:
    """Dimensions are lined up by their products; merged and split ones become blocks.

    Merging [C, H, W] puts every channel on H*W consecutive positions; H and W must stay. Splitting
    [C] into [A, B] makes units of B consecutive channels.
    """
    x, before, after = t.of(node.args[0]), _sizes(node.args[0]), _sizes(node)
    out: list[Layout | None] = [None] * len(after)
    for sources, results in _line_up(before, after):
        big_in = [dim for dim in sources if before[dim] > 1]
        big_out = [dim for dim in results if after[dim] > 1]
        if len(big_in) <= 1 and len(big_out) <= 1:
            _move(t, node, [x[d] for d in sources], sources, results, before, after, out)
            continue
        lead_in, lead_out = big_in[0], big_out[0]
        for dim in big_in[1:]:
            t.keep(x[dim], f"merged with another dimension by {label(node)}")
        lead = x[lead_in]
        if lead is None:
            continue
        merged = scale(lead, math.prod(before[d] for d in big_in[1:]))
        if len(big_out) == 1:
            out[lead_out] = merged
            continue
        layout = fresh(after[lead_out])
        t.tie(merged, scale(layout, math.prod(after[d] for d in big_out[1:])), node)
        out[lead_out] = layout
    return out


def _move(
    t: Tracker,
    node: fx.Node,
    layouts: list[Layout | None],
    sources: list[int],
    results: list[int],
    before: tuple[int, ...],
    after: tuple[int, ...],
    out: list[Layout | None],
) -> None:
    """A dimension that keeps its size, among dimensions of one position that come and go."""
    big = [d for d in results if after[d] > 1]
    for dim, layout in zip(sources, layouts, strict=True):
        if before[dim] > 1:
            out[big[0]] = layout
        elif len(sources) == len(results):
            out[results[sources.index(dim)]] = layout
        else:
            t.keep(layout, f"its one channel is reshaped by {label(node)}")


def _line_up(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Smallest sets of neighbouring dimensions with equal products on both sides."""
    if 0 in before or 0 in after:
        raise Barrier("the tensor is empty")
    pairs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        have, want = before[i], after[j]
        first_i, first_j = i, j
        i, j = i + 1, j + 1
        while have != want:
            if have < want:
                have *= before[i]
                i += 1
            else:
                want *= after[j]
                j += 1
        pairs.append((list(range(first_i, i)), list(range(first_j, j))))
    pairs.extend(([dim], []) for dim in range(i, len(before)))
    pairs.extend(([], [dim]) for dim in range(j, len(after)))
    return pairs


@rule("permute", "transpose.int", "t", "swapaxes")
def permute(t: Tracker, node: fx.Node) -> Dims:
    """Dimensions change places."""
    x = t.of(node.args[0])
    order = list(range(len(x)))
    if "permute" in str(node.target):
        given = node.args[1]
        if not isinstance(given, list | tuple):
            raise Barrier("its order is not a constant")
        order = [int(str(dim)) % len(x) for dim in given]
    elif len(node.args) > 2 or str(node.target) == "aten.t.default":
        a, b = (int(str(d)) for d in (node.args[1:3] if len(node.args) > 2 else (0, -1)))
        order[a], order[b] = order[b], order[a]
    return [x[dim] for dim in order]


@rule("expand")
def expand(t: Tracker, node: fx.Node) -> Dims:
    """A repeated position follows whatever it is combined with later: its size is free."""
    x, before, after = t.of(node.args[0]), _sizes(node.args[0]), _sizes(node)
    lead = len(after) - len(before)
    out: list[Layout | None] = [fresh(size) for size in after[:lead]]
    for dim, layout in enumerate(x):
        if before[dim] == after[lead + dim]:
            out.append(layout)
        else:
            t.keep(layout, f"its one channel is repeated by {label(node)}")
            out.append(fresh(after[lead + dim]))
    return out


@rule("pad", "constant_pad_nd")
def pad(t: Tracker, node: fx.Node) -> Dims:
    """Padded channels are there always; the channels between them pass."""
    x = list(t.of(node.args[0]))
    amounts = node.args[1]
    mode = node.args[2] if len(node.args) > 2 and isinstance(node.args[2], str) else "constant"
    if not isinstance(amounts, list | tuple):
        raise Barrier("its amounts are not constants")
    counts = [int(str(a)) for a in amounts]
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


@rule("slice.Tensor")
def slice_(t: Tracker, node: fx.Node) -> Dims:
    """Other dimensions pass; a sliced dimension of channels is kept whole."""
    x = list(t.of(node.args[0]))
    before, after = _sizes(node.args[0]), _sizes(node)
    dim = node.args[1] if len(node.args) > 1 else 0
    if not isinstance(dim, int):
        raise Barrier("its dimension is not a constant")
    if before[dim] != after[dim]:
        t.keep(x[dim], f"sliced by {label(node)}")
        x[dim] = None
    return x


def _sizes(value: object) -> tuple[int, ...]:
    sizes = shape(value) if isinstance(value, fx.Node) else None
    if sizes is None:
        raise Barrier("an argument is not a tensor of the graph")
    return sizes
