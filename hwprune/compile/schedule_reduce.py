"""Mean over height and width, and dense layers: several independent accumulators at once."""

from __future__ import annotations

from hwprune.compile.prepared import Prepared
from hwprune.compile.tiles import accumulator_budget


def _divisor(extent: int, limit: int) -> int:
    return max(d for d in range(1, limit + 1) if extent % d == 0)


def reduce_rule(p: Prepared) -> bool:
    """``acc[n, c, lane]`` over rows and columns: a few channel blocks side by side."""
    if p.emitted.family != "reduce":
        return False
    s, acc = p.schedule, p.blocks["acc"]
    blocks = p.extents(acc)[1]
    n, c, lane, kh, kw = s.get_loops(acc)
    outer, inner = s.split(c, [None, _divisor(blocks, 4)])
    cached = s.cache_write(acc, 0, "local")
    s.reorder(n, outer, kh, kw, inner, lane)
    s.reverse_compute_at(cached, outer)
    s.vectorize(s.get_loops(cached)[-1])
    s.vectorize(lane)
    s.unroll(inner)
    p.parallel([n, outer])
    s.decompose_reduction(acc, kh)
    return True


def linear_rule(p: Prepared) -> bool:
    """``acc[n, o, lane]`` over k: a tile of batch rows x output blocks, weights read once a tile."""
    if p.emitted.family != "linear":
        return False
    s, acc = p.schedule, p.blocks["acc"]
    batch, blocks = p.extents(acc)[:2]
    n, o, lane, k = s.get_loops(acc)
    rows = _divisor(batch, 4)
    limit = max(1, accumulator_budget(p.target.vector_registers) // rows)
    row, row_in = s.split(n, [None, rows])
    block, block_in = s.split(o, [None, _divisor(blocks, min(8, limit))])
    cached = s.cache_write(acc, 0, "local")
    s.reorder(block, row, k, row_in, block_in, lane)
    s.reverse_compute_at(cached, row)
    s.vectorize(s.get_loops(cached)[-1])
    s.vectorize(lane)
    s.unroll(row_in)
    s.unroll(block_in)
    p.parallel([block, row])
    s.decompose_reduction(acc, k)
    return True
