"""Mean over height and width, and dense layers: several independent accumulators at once."""

from __future__ import annotations

from hwprune.compile.prepared import Prepared


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
    """``acc[n, o, lane]`` over k: several output blocks side by side."""
    if p.emitted.family != "linear":
        return False
    s, acc = p.schedule, p.blocks["acc"]
    blocks = p.extents(acc)[1]
    n, o, lane, k = s.get_loops(acc)
    outer, inner = s.split(o, [None, _divisor(blocks, 8)])
    cached = s.cache_write(acc, 0, "local")
    s.reorder(n, outer, k, inner, lane)
    s.reverse_compute_at(cached, outer)
    s.vectorize(s.get_loops(cached)[-1])
    s.vectorize(lane)
    s.unroll(inner)
    p.parallel([n, outer])
    s.decompose_reduction(acc, k)
    return True
