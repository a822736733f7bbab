"""Depthwise convolution and pooling: one channel block per vector, a row tile in registers."""

from __future__ import annotations

from hwprune.compile.schedule import Prepared
from hwprune.compile.tiles import accumulator_budget


def row_tile(width: int, budget: int) -> int:
    """Columns per tile: the largest divisor of the row that fits, if it keeps the core busy."""
    best = max(d for d in range(1, min(width, budget) + 1) if width % d == 0)
    return best


def window_rule(p: Prepared) -> bool:
    if p.emitted.family != "window":
        return False
    s, acc, out = p.schedule, p.blocks["acc"], p.blocks.pop(p.emitted.final)
    width = p.extents(acc)[3]
    n, c, h, w, lane, kh, kw = s.get_loops(acc)
    col, col_in = s.split(w, [None, row_tile(width, accumulator_budget(p.target.vector_registers))])
    s.reorder(n, c, h, col, kh, kw, col_in, lane)
    s.set_scope(acc, 0, "local")
    s.reverse_compute_at(out, col)
    inner = s.get_loops(out)[4:]
    s.vectorize(inner[-1])
    for loop in inner[:-1]:
        s.unroll(loop)
    s.vectorize(lane)
    s.unroll(col_in)
    s.unroll(kw)
    s.unroll(kh)
    p.parallel([n, c])
    s.decompose_reduction(acc, kh)
    return True
