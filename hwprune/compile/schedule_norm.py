"""Reductions over channels: one row of pixels at a time, vectors over lanes."""

from __future__ import annotations

from hwprune.compile.prepared import Prepared


def norm_rule(p: Prepared) -> bool:
    """All four reduction stages of a row are computed where the row is written."""
    if p.emitted.family != "norm":
        return False
    s, out = p.schedule, p.blocks.pop(p.emitted.final)
    loops = s.get_loops(out)
    if len(loops) == 5:
        n, c, h, w, lane = loops
        s.reorder(n, h, c, w, lane)
        row = p.parallel([n, h])
        s.vectorize(lane)
    else:
        row = p.parallel(loops[:1])
        inner, lanes = loops[-1], p.target.simd_lanes
        if p.extents(out)[-1] % lanes == 0:
            inner = s.split(inner, [None, lanes])[1]
            s.vectorize(inner)
    for name in ("r3", "r2", "r1", "r0"):
        block = p.blocks.pop(name)
        s.compute_at(block, row)
        if name in ("r1", "r3"):
            continue
        *places, lane, reduced = s.get_loops(block)[1:]
        s.reorder(reduced, *places, lane)
        s.vectorize(lane)
        s.decompose_reduction(block, reduced)
    return True
