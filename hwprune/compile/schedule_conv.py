"""Dense and grouped convolution: register tiles of output-channel blocks x rows x columns."""

from __future__ import annotations

from hwprune.compile.prepared import Prepared


def conv_rule(p: Prepared) -> bool:
    """Accumulate a tile in registers over all of the reduction, then run the epilogue on it."""
    tile = p.emitted.tile
    if p.emitted.family != "conv" or tile is None:
        return False
    s, acc, out = p.schedule, p.blocks["acc"], p.blocks.pop(p.emitted.final)
    n, o, h, w, lane, *reduction = s.get_loops(acc)
    block, block_in = s.split(o, [None, tile.block_tile])
    row, row_in = s.split(h, [None, tile.rows])
    col, col_in = s.split(w, [None, tile.cols])
    s.reorder(n, block, row, col, *reduction, row_in, col_in, block_in, lane)
    s.set_scope(acc, 0, "local")
    s.reverse_compute_at(out, col)
    p.finish_tile(out, 4)
    s.vectorize(lane)
    for loop in (row_in, col_in, block_in):
        s.unroll(loop)
    if p.target.threads > 1:
        p.parallel([n, block, row])
    s.decompose_reduction(acc, reduction[0])
    return True
