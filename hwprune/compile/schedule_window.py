"""Depthwise convolution and pooling: one channel block per vector, a row tile in registers."""

from __future__ import annotations

from hwprune.compile.prepared import Prepared
from hwprune.compile.tiles import UNROLLED_LIMIT


def window_rule(p: Prepared) -> bool:
    """Keep a row tile in registers over the whole window, unrolled as far as that stays small."""
    tile = p.emitted.tile
    if p.emitted.family != "window" or tile is None:
        return False
    s, acc, out = p.schedule, p.blocks["acc"], p.blocks.pop(p.emitted.final)
    rows, cols = p.extents(acc)[-2:]
    n, c, h, w, lane, kh, kw = s.get_loops(acc)
    col, col_in = s.split(w, [None, tile.cols])
    threads, height = p.target.threads, p.extents(acc)[2]
    by_rows = threads > 1 and height % threads == 0
    if by_rows:  # as convolutions do where maps are large (see splits_rows)
        part, h = s.split(h, [threads, None])
        s.reorder(n, part, c, h, col, kh, kw, col_in, lane)
        n = s.fuse(n, part)
        s.parallel(n)
    s.reorder(n, c, h, col, kh, kw, col_in, lane)
    s.set_scope(acc, 0, "local")
    s.reverse_compute_at(out, col)
    p.finish_tile(out, 4)
    s.vectorize(lane)
    s.unroll(col_in)
    # Unrolled, the positions in the window are constants, and most masks fold away.
    if cols * tile.cols <= UNROLLED_LIMIT:
        s.unroll(kw)
        if rows * cols * tile.cols <= UNROLLED_LIMIT:
            s.unroll(kh)
    if not by_rows:
        p.parallel([n, c])
    s.decompose_reduction(acc, kh)
    return True
