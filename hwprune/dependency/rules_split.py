"""Rules of operators that take a dimension apart: split, chunk, unbind, select, slice, index."""

from __future__ import annotations

from torch import fx

from hwprune.dependency.arguments import argument, dimension, integer, sizes_of
from hwprune.dependency.layout import Layout, length, scale
from hwprune.dependency.rules import rule
from hwprune.dependency.tracker import Barrier, Dims, Parts, Tracker, fresh, label, shape, shapes_of


@rule("getitem")
def getitem(t: Tracker, node: fx.Node) -> Dims:
    """One of several tensors."""
    source, index = node.args[0], node.args[1]
    if not isinstance(source, fx.Node) or source not in t.several or not isinstance(index, int):
        raise Barrier("it picks from something that makes no tensors")
    return t.several[source][index]


@rule("split.Tensor", "split_with_sizes", "chunk", "tensor_split.indices", "tensor_split.sections")
@rule("unsafe_split.Tensor", "unsafe_chunk", "unsafe_split_with_sizes", "split.sizes")
def split(t: Tracker, node: fx.Node) -> Parts:
    """Ranges of channels; where each begins follows the channels that are left before it."""
    x = t.of(node.args[0])
    dim = dimension(node, 2, len(x))
    sizes = [_at(piece, dim) for piece in shapes_of(node)]
    layout = x[dim]
    if layout is None:
        return Parts([[*x[:dim], None, *x[dim + 1 :]] for _ in sizes])
    pieces = t.divide(layout, sizes, node)
    t.pieces[node] = pieces
    return Parts([[*x[:dim], piece, *x[dim + 1 :]] for piece in pieces])


def _at(sizes: tuple[int, ...] | None, dim: int) -> int:
    if sizes is None:
        raise Barrier("it makes something that is no tensor")
    return sizes[dim]


@rule("unbind.int")
def unbind(t: Tracker, node: fx.Node) -> Parts:
    """Every position of a dimension becomes a tensor: the dimension stays, the others pass."""
    x = t.of(node.args[0])
    dim = dimension(node, 1, len(x))
    t.keep(x[dim], f"taken apart by {label(node)}")
    rest = [*x[:dim], *x[dim + 1 :]]
    return Parts([list(rest) for _ in shapes_of(node)])


@rule("select.int")
def select(t: Tracker, node: fx.Node) -> Dims:
    """One position of a dimension, which stays; the others pass."""
    x = t.of(node.args[0])
    dim = dimension(node, 1, len(x))
    t.keep(x[dim], f"one position is selected by {label(node)}")
    return [*x[:dim], *x[dim + 1 :]]


@rule("slice.Tensor", "narrow")
def slice_(t: Tracker, node: fx.Node) -> Dims:
    """A range of channels: it begins after the channels that are left before it.

    Every s-th channel is exact where s divides the channels: s consecutive ones are a unit then.
    """
    x, before, after = list(t.of(node.args[0])), sizes_of(node.args[0]), sizes_of(node)
    dim = dimension(node, 1, len(x))
    layout = x[dim]
    if before == after or layout is None:
        return x
    start, step = slice_bounds(node, before[dim])
    if step == 1:
        ahead, inside, _ = t.divide(layout, [start, after[dim], before[dim] - start - after[dim]], node)
        t.pieces[node] = [ahead, inside]
        x[dim] = inside
    elif start < step and before[dim] == step * after[dim]:
        x[dim] = fresh(after[dim])
        t.tie(layout, scale(x[dim] or (), step), node)
    else:
        t.keep(layout, f"sliced by {label(node)}")
        x[dim] = None
    return x


@rule("slice_scatter", "select_scatter")
def scatter(t: Tracker, node: fx.Node) -> Dims:
    """A part of a tensor exchanged: the dimension it lies along stays, the others are tied."""
    x, part = t.of(node.args[0]), t.of(node.args[1])
    dim = dimension(node, 2, len(x))
    selected = "select" in str(node.target)
    for layout in (x[dim], None if selected else part[dim]):
        t.keep(layout, f"a part is exchanged by {label(node)}")
    rest = [*part[:dim], None, *part[dim + (0 if selected else 1) :]]
    for index, layout in enumerate(x):
        if index != dim:
            t.tie(layout, rest[index], node)
    t.merges.add(node)
    return x


def slice_bounds(node: fx.Node, size: int) -> tuple[int, int]:
    """First position and step of a slice of ``size`` positions."""
    start = argument(node, 2, "start")
    first = 0 if start is None else integer(start, "start")
    first = min(max(first + size if first < 0 else first, 0), size)
    if "narrow" in str(node.target):
        return first, 1
    return first, integer(argument(node, 4, "step", 1), "step")


@rule("index.Tensor", "index_select")
def index(t: Tracker, node: fx.Node) -> Dims:
    """Indexed dimensions stay and so do those of the index; the others pass."""
    x = t.of(node.args[0])
    if "select" in str(node.target):
        dim = dimension(node, 1, len(x))
        indices = [*[None] * dim, node.args[2]]
    else:
        given = node.args[1]
        if not isinstance(given, list | tuple):
            raise Barrier("its indices are not a list")
        indices = list(given)
    chosen = [dim for dim, index in enumerate(indices) if index is not None]
    if not chosen:
        return x
    counts = [_index(t, node, indices[dim]) for dim in chosen]
    if any(count is None for count in counts) or len(chosen) > len(x):
        raise Barrier("it is indexed by a mask")
    for dim in chosen:
        t.keep(x[dim], f"indexed by {label(node)}")
    made: list[Layout | None] = [None] * max((count for count in counts if count is not None), default=0)
    rest = [layout for dim, layout in enumerate(x) if dim not in chosen]
    adjacent = chosen == list(range(chosen[0], chosen[-1] + 1))
    at = chosen[0] if adjacent else 0
    return [*rest[:at], *made, *rest[at:]]


def _index(t: Tracker, node: fx.Node, index: object) -> int | None:
    """Rank of an index tensor, None for a mask; its own positions stay."""
    sizes = shape(index) if isinstance(index, fx.Node) else None
    if not isinstance(index, fx.Node) or sizes is None or str(index.meta["val"].dtype) == "torch.bool":
        return None
    for layout in t.of(index):
        t.keep(layout, f"is an index of {label(node)}")
    return len(sizes)


@rule("glu")
def glu(t: Tracker, node: fx.Node) -> Dims:
    """The first half of the channels times a gate made of the second half: they go in pairs."""
    x = list(t.of(node.args[0]))
    dim = dimension(node, 1, len(x), -1)
    layout = x[dim]
    if layout is not None:
        half = fresh(length(layout) // 2)
        t.tie(layout, half * 2, node)
        x[dim] = half
    return x


@rule("unfold")
def unfold(t: Tracker, node: fx.Node) -> Dims:
    """Windows along one dimension, which stays; the others pass."""
    x = list(t.of(node.args[0]))
    dim = dimension(node, 1, len(x))
    t.keep(x[dim], f"mixed by {label(node)}")
    x[dim] = None
    return [*x, None]
