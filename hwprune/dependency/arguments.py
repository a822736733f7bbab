"""Reading an operator's arguments: dimensions, lists of numbers, shapes, orders."""

from __future__ import annotations

from torch import fx

from hwprune.dependency.tracker import Barrier, shape


def argument(node: fx.Node, index: int, name: str, default: object = None) -> object:
    """An argument by position or keyword; the default where the graph leaves it out."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def sizes_of(value: object) -> tuple[int, ...]:
    """Shape of a tensor argument."""
    sizes = shape(value) if isinstance(value, fx.Node) else None
    if sizes is None:
        raise Barrier("an argument is not a tensor of the graph")
    return sizes


def integer(value: object, what: str) -> int:
    """A constant number."""
    if not isinstance(value, int):
        raise Barrier(f"its {what} is not a constant")
    return value


def integers(value: object, what: str) -> list[int]:
    """A constant list of numbers."""
    if not isinstance(value, list | tuple) or not all(isinstance(v, int) for v in value):
        raise Barrier(f"its {what} are not constants")
    return [int(str(v)) for v in value]


def dimension(node: fx.Node, index: int, rank: int, default: int = 0, name: str = "dim") -> int:
    """A dimension argument, counted from the front."""
    return integer(argument(node, index, name, default), "dimension") % max(rank, 1)


def permutation(node: fx.Node) -> list[int] | None:
    """Which dimension of the input is at each place of the output, None for other operators."""
    source = node.args[0] if node.args else None
    sizes = shape(source) if isinstance(source, fx.Node) else None
    name = str(node.target).removeprefix("aten.").split(".")[0]
    if sizes is None or name not in _ORDERS:
        return None
    rank = len(sizes)
    order = list(range(rank))
    if name == "permute":
        return [dim % rank for dim in integers(node.args[1], "dimensions")]
    if name == "movedim":
        return _moved(node.args[1], node.args[2], rank)
    if name in ("transpose", "swapaxes", "swapdims"):
        a, b = integer(node.args[1], "dimension"), integer(node.args[2], "dimension")
    elif name == "numpy_T":
        return order[::-1]
    elif rank < 2:
        return order
    else:
        a, b = rank - 2, rank - 1
    order[a], order[b] = order[b], order[a]
    return order


_ORDERS = frozenset(
    {"permute", "transpose", "swapaxes", "swapdims", "t", "mT", "numpy_T", "movedim", "adjoint"}
)


def _moved(source: object, target: object, rank: int) -> list[int]:
    sources = [source] if isinstance(source, int) else integers(source, "dimensions")
    targets = [target] if isinstance(target, int) else integers(target, "dimensions")
    places = {t % rank: s % rank for s, t in zip(sources, targets, strict=True)}
    others = iter(dim for dim in range(rank) if dim not in places.values())
    return [places[dim] if dim in places else next(others) for dim in range(rank)]


def line_up(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Smallest sets of neighbouring dimensions with equal products in two shapes of one tensor."""
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
