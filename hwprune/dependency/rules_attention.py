"""Rules of the attention operator and of embedding tables.

Heads are units because nothing mixes them: the dimension [heads] of queries, keys, values, scores
and position biases is a batch dimension of every product. It is found from the reshapes around
the operator, so no number of heads is asked for. Inside a head, queries and keys are summed over
(their dimension can be cut where it is a dimension of its own in the graph, with one head or with
weights of one dimension per head, or on request), and the values' dimension passes. Without a
request, heads are the unit: both at once would make widths products.
"""

from __future__ import annotations

from torch import fx

from hwprune.dependency.arguments import argument, sizes_of
from hwprune.dependency.layout import Layout, scale
from hwprune.dependency.rules import rule
from hwprune.dependency.tracker import Barrier, Dims, Tracker, label


@rule("scaled_dot_product_attention")
def attention(t: Tracker, node: fx.Node) -> Dims:
    """Queries [..., L, E], keys [..., S, E], values [..., S, V], mask [..., L, S].

    With ``enable_gqa`` the third dimension from the end is that of heads, and each key and value
    head, a unit, serves several query heads. Without an explicit scale the operator divides by
    the square root of E: when E is cut, the cut graph states the original's scale.
    """
    query, key, value = (_node(x) for x in node.args[:3])
    mask = argument(node, 3, "attn_mask")
    q, k, v = t.of(query), t.of(key), t.of(value)
    if q[-1] is not k[-1]:
        t.tie(q[-1], k[-1], node)
    t.read(node, query, -1)
    for layout in (k[-2], v[-2]):
        t.keep(layout, f"mixed by {label(node)}")
    if argument(node, 5, "is_causal", default=False):
        t.keep(q[-2], f"its order counts in {label(node)}")
    t.merges.add(node)
    batch = _batch(t, node, [n for n in (query, key, value, mask) if isinstance(n, fx.Node)])
    if isinstance(mask, fx.Node):
        m, sizes = t.of(mask), sizes_of(mask)
        t.keep(m[-1], f"mixed by {label(node)}")
        if len(m) > 1 and sizes[-2] == sizes_of(query)[-2]:
            t.tie(q[-2], m[-2], node)
        elif len(m) > 1:
            t.keep(m[-2], f"its one channel is repeated by {label(node)}")
    return [*batch, q[-2], v[-1]]


def _batch(t: Tracker, node: fx.Node, operands: list[fx.Node]) -> Dims:
    """Dimensions before the last two, lined up from the right."""
    sizes = sizes_of(node)
    grouped = bool(node.kwargs.get("enable_gqa", False))
    out: list[Layout | None] = []
    for dim in range(-len(sizes), -2):
        chosen: Layout | None = None
        first = True
        for operand in operands:
            own = sizes_of(operand)
            if len(own) < -dim:
                continue
            layout = t.of(operand)[dim]
            if own[dim] != sizes[dim]:
                if not grouped or dim != -3 or own[dim] == 1 or sizes[dim] % own[dim]:
                    t.keep(layout, f"its one channel is repeated by {label(node)}")
                    continue
                layout = None if layout is None else scale(layout, sizes[dim] // own[dim])
            if first:
                chosen, first = layout, False
            elif layout is not chosen:
                t.tie(chosen, layout, node)
        out.append(chosen)
    return out


@rule("embedding")
def embedding(t: Tracker, node: fx.Node) -> Dims:
    """Table [entries, width]: every entry stays, the width makes channels."""
    table, indices = _node(node.args[0]), _node(node.args[1])
    rows, width = t.of(table)
    t.keep(rows, f"entries of the table of {label(node)}")
    for layout in t.of(indices):
        t.keep(layout, f"indices of {label(node)}")
    t.role(table, 1, "producer", node)
    if width is not None:
        t.produce(node, table, width)
    return [*([None] * len(t.of(indices))), width]


def _node(value: object) -> fx.Node:
    if not isinstance(value, fx.Node):
        raise Barrier("an argument is not a tensor of the graph")
    return value
