"""Winograd convolution: chunks of tile rows through three stages, products in register tiles."""

from __future__ import annotations

from typing import Any

from hwprune.compile.prefetch import prefetch_weights
from hwprune.compile.prepared import Prepared
from hwprune.compile.tvm_api import SBlockRV


def winograd_rule(p: Prepared) -> bool:
    """Transform a chunk of the input, multiply, transform back and run the epilogue on each tile."""
    plan = p.emitted.winograd
    if p.emitted.family != "winograd" or plan is None:
        return False
    s = p.schedule
    acc, out = p.blocks["acc"], p.blocks.pop(p.emitted.final)
    image, up, spectrum, down = (p.blocks.pop(name) for name in ("image", "up", "spectrum", "down"))
    n, o, h, w, lane = s.get_loops(image)
    part, row, row_in = s.split(h, [None, plan.chunk, plan.m])
    col, col_in = s.split(w, [None, plan.m])
    s.reorder(n, part, o, row, col, row_in, col_in, lane)
    s.set_scope(image, 0, "local")
    s.reverse_compute_at(out, col)
    p.finish_tile(out, 5)
    _finish(s, lane, row_in, col_in)
    s.compute_at(up, col, preserve_unit_loops=True)
    s.set_scope(up, 0, "local")
    *_, i, j, lane = s.get_loops(up)
    _finish(s, lane, i, j)
    s.compute_at(acc, part, preserve_unit_loops=True)
    _products(p, acc)
    s.compute_at(spectrum, part, preserve_unit_loops=True)
    i, j, _, c, y, x, lane = s.get_loops(spectrum)[-7:]
    s.reorder(c, y, x, i, j, lane)
    _finish(s, lane, i, j)
    s.compute_at(down, x, preserve_unit_loops=True)
    s.set_scope(down, 0, "local")
    *_, i, j, lane = s.get_loops(down)
    _finish(s, lane, i, j)
    if "pad" in p.blocks:
        pad = p.blocks.pop("pad")
        s.compute_at(pad, c, preserve_unit_loops=True)
        s.vectorize(s.get_loops(pad)[-1])
    if p.target.threads > 1:
        # Inside a chunk: neighbouring chunks share rows of padding, and small maps have one chunk.
        s.parallel(c)
        s.parallel(o)
    return True


def _finish(s: Any, lane: Any, *unrolled: Any) -> None:
    s.vectorize(lane)
    for loop in unrolled:
        s.unroll(loop)


def _products(p: Prepared, acc: SBlockRV) -> None:
    s, plan = p.schedule, p.emitted.winograd
    assert plan is not None
    loops = s.get_loops(acc)
    i, j, batch, o, y, x, lane, block, lane_in = loops[-9:]
    o_out, o_in = s.split(o, [None, plan.block_tile])
    y_out, y_in = s.split(y, [None, plan.rows])
    x_out, x_in = s.split(x, [None, plan.cols])
    s.reorder(i, j, o_out, y_out, x_out, block, lane_in, y_in, x_in, o_in, lane)
    stored = s.cache_write(acc, 0, "local")
    s.reverse_compute_at(stored, x_out, preserve_unit_loops=True)
    *tile, last = s.get_loops(stored)[-4:]
    _finish(s, last, *tile)
    _finish(s, lane, y_in, x_in, o_in)
    panels = plan.out_blocks // plan.block_tile
    one = int(s.get(batch).extent) == 1
    first, second, tile = (s.get(loop).loop_var for loop in (i, j, o_out))
    panel: Any = (first * plan.size + second) * panels + tile
    if p.target.threads > 1:
        panel = s.get(p.parallel([i, j, batch, o_out])).loop_var
    s.decompose_reduction(acc, block)
    if p.target.threads == 1 or one:
        tiles = [s.get(loop) for loop in (y_out, x_out)]
        sums = [s.get(loop) for loop in (block, lane_in)]
        p.finishers.append(
            lambda function: prefetch_weights(
                function,
                next(v for v in function.params if str(v.name) == p.emitted.weight),
                plan.weight_shape,
                [panel, *(loop.loop_var for loop in tiles)],
                [loop.loop_var for loop in sums],
                [int(loop.extent) for loop in (*tiles, sums[0])],
            )
        )
