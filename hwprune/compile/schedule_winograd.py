"""Winograd convolution: chunks of tile rows through three stages, products in register tiles."""

from __future__ import annotations

from typing import Any

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
    s.compute_at(up, col)
    s.set_scope(up, 0, "local")
    *_, i, j, lane = s.get_loops(up)
    _finish(s, lane, i, j)
    s.compute_at(acc, part)
    _products(p, acc)
    s.compute_at(spectrum, part)
    i, j, c, y, x, lane = _inner(s, spectrum, 2, 6)
    s.reorder(c, y, x, i, j, lane)
    _finish(s, lane, i, j)
    s.compute_at(down, x)
    s.set_scope(down, 0, "local")
    *_, i, j, lane = s.get_loops(down)
    _finish(s, lane, i, j)
    if "pad" in p.blocks:
        pad = p.blocks.pop("pad")
        s.compute_at(pad, c)
        s.vectorize(s.get_loops(pad)[-1])
    if p.target.threads > 1:
        p.parallel([n, part])
    return True


def _inner(s: Any, block: SBlockRV, outer: int, count: int) -> list[Any]:
    """The innermost ``count`` loops of a block under ``outer`` others; loops of extent one between."""
    loops = s.get_loops(block)
    return loops[len(loops) - count :]


def _finish(s: Any, lane: Any, *unrolled: Any) -> None:
    s.vectorize(lane)
    for loop in unrolled:
        s.unroll(loop)


def _products(p: Prepared, acc: SBlockRV) -> None:
    s, plan = p.schedule, p.emitted.winograd
    assert plan is not None
    loops = s.get_loops(acc)
    i, j, o, y, x, lane, block, lane_in = loops[-8:]
    o_out, o_in = s.split(o, [None, plan.block_tile])
    y_out, y_in = s.split(y, [None, plan.rows])
    x_out, x_in = s.split(x, [None, plan.cols])
    s.reorder(i, j, o_out, y_out, x_out, block, lane_in, y_in, x_in, o_in, lane)
    stored = s.cache_write(acc, 0, "local")
    s.reverse_compute_at(stored, x_out)
    *tile, last = s.get_loops(stored)[-4:]
    _finish(s, last, *tile)
    _finish(s, lane, y_in, x_in, o_in)
    s.decompose_reduction(acc, block)
