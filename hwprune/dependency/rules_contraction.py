"""Rules of matrix products: every form is a sum over indices, written as in einsum.

An index that two operands share is the same channel in both. One that the result lacks is summed:
its removed units are zeros in a weight of the product, or in one of the operands where no operand
is a weight. An index that only a weight has makes channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters

from torch import fx

from hwprune.dependency.arguments import sizes_of
from hwprune.dependency.layout import Layout
from hwprune.dependency.rules import rule
from hwprune.dependency.tracker import Barrier, Dims, Tracker, is_weight, label

Place = tuple[fx.Node, int]
"""An operand and one of its dimensions."""


@rule("matmul", "mm", "bmm", "mv", "dot")
def matmul(t: Tracker, node: fx.Node) -> Dims:
    """[..., n, k] times [..., k, m]; a vector on either side has k only."""
    a, b = node.args[:2]
    return contract(t, node, [a, b], *_product(len(sizes_of(a)), len(sizes_of(b))))


@rule("baddbmm", "addmm", "addbmm")
def product_and_sum(t: Tracker, node: fx.Node) -> Dims:
    """A product and something that is added to it, broadcast."""
    added, a, b = node.args[:3]
    terms, output = _product(len(sizes_of(a)), len(sizes_of(b)))
    if str(node.target) == "aten.addbmm.default":  # sums over the batch
        output = output[1:]
    out = list(contract(t, node, [a, b], terms, output))
    sizes, own = sizes_of(node), sizes_of(added)
    for dim, layout in enumerate(t.of(added), len(out) - len(own)):
        if own[dim - len(out)] == sizes[dim]:
            t.tie(out[dim], layout, node)
        else:
            t.keep(layout, f"its one channel is repeated by {label(node)}")
    return out


@rule("einsum")
def einsum(t: Tracker, node: fx.Node) -> Dims:
    """Letters are indices; an ellipsis stands for dimensions that are lined up from the right."""
    equation, operands = node.args[:2]
    if not isinstance(equation, str) or not isinstance(operands, list | tuple):
        raise Barrier("its equation is not a constant")
    return contract(t, node, operands, *_parse(equation, [len(sizes_of(o)) for o in operands]))


@rule("bilinear")
def bilinear(t: Tracker, node: fx.Node) -> Dims:
    """Weight [O, I, J] between two inputs [..., I] and [..., J]."""
    first, second, weight = node.args[:3]
    lead = ascii_letters[3 : 2 + len(sizes_of(first))]
    out = contract(t, node, [first, second, weight], [f"{lead}b", f"{lead}c", "abc"], f"{lead}a")
    if len(node.args) > 3 and node.args[3] is not None:
        t.tie(out[-1], t.of(node.args[3])[0], node)
    return out


def contract(
    t: Tracker, node: fx.Node, operands: Sequence[object], terms: Sequence[str], output: str
) -> Dims:
    """Tie, sum and pass the indices of a product.

    Parameters
    ----------
    t, node
        The tracker and the product.
    operands, terms
        Tensors of the graph, each with one letter per dimension. A dimension of one position
        under a letter that is longer elsewhere is repeated.
    output
        Letters of the result.
    """
    places: dict[str, list[Place]] = {}
    for operand, letters in zip(operands, terms, strict=True):
        if not isinstance(operand, fx.Node) or len(set(letters)) != len(letters):
            raise Barrier("it takes a diagonal")
        if len(letters) != len(sizes_of(operand)):
            raise Barrier("its indices do not fit")
        for dim, letter in enumerate(letters):
            places.setdefault(letter, []).append((operand, dim))
    layouts = {letter: _index(t, node, places[letter]) for letter in places}
    for letter, (layout, found) in layouts.items():
        if letter not in output:
            _sum(t, node, found)
        elif len(found) == 1 and layout is not None and is_weight(found[0][0]):
            weight, dim = found[0]
            t.role(weight, dim, "producer", node)
            t.produce(node, weight, layout)
    if sum(not is_weight(o) for o in operands if isinstance(o, fx.Node)) > 1:
        t.merges.add(node)
    return [layouts[letter][0] for letter in output]


def _index(t: Tracker, node: fx.Node, places: Sequence[Place]) -> tuple[Layout | None, list[Place]]:
    """One layout for a letter, and the dimensions that have all its positions."""
    size = max(sizes_of(operand)[dim] for operand, dim in places)
    full: list[Place] = []
    for operand, dim in places:
        if sizes_of(operand)[dim] == size:
            full.append((operand, dim))
        else:
            t.keep(t.of(operand)[dim], f"its one channel is repeated by {label(node)}")
    first = t.of(full[0][0])[full[0][1]]
    for operand, dim in full[1:]:
        layout = t.of(operand)[dim]
        if layout is not first:
            t.tie(first, layout, node)
    return first, full


def _sum(t: Tracker, node: fx.Node, places: Sequence[Place]) -> None:
    """Somewhere the removed units must be zero: in the weights if there are any."""
    weights = [(operand, dim) for operand, dim in places if is_weight(operand)]
    for weight, dim in weights:
        t.role(weight, dim, "consumer", node)
    if not any(operand.op == "get_attr" for operand, _ in weights):
        t.read(node, *(weights or places)[0])


def _product(left: int, right: int) -> tuple[list[str], str]:
    """Letters of a matrix product of tensors with that many dimensions."""
    if left == 0 or right == 0:
        raise Barrier("an operand is a number")
    batch = ascii_letters[3 : 1 + max(left, right)]
    rows = "a" if left > 1 else ""
    columns = "c" if right > 1 else ""
    a = batch[len(batch) - max(left - 2, 0) :] + rows + "b"
    b = batch[len(batch) - max(right - 2, 0) :] + "b" + columns
    return [a, b], batch + rows + columns


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Terms and result without ellipses; letters that occur once are the result if none is given."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise Barrier("its equation does not fit")
    spare = [letter for letter in ascii_letters if letter not in equation]
    hidden = [
        rank - len(term.replace("...", "")) if "..." in term else 0
        for term, rank in zip(terms, ranks, strict=True)
    ]
    if min(hidden) < 0 or max(hidden) > len(spare):
        raise Barrier("its equation does not fit")
    dots = "".join(spare[: max(hidden)])
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        right = "..." * ("..." in left) + "".join(x for x in sorted(set(letters)) if letters.count(x) == 1)
    own = [dots[len(dots) - count :] for count in hidden]
    return [term.replace("...", mine) for term, mine in zip(terms, own, strict=True)], right.replace(
        "...", dots
    )
