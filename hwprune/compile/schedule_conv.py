"""Dense and grouped convolution: register tiles of output-channel blocks x rows x columns."""

from __future__ import annotations

from math import prod
from typing import Any

from hwprune.compile.prefetch import prefetch_weights
from hwprune.compile.prepared import Prepared
from hwprune.compile.tiles import Tile
from hwprune.compile.tvm_api import tirx

#: Accumulators of a map that stay in the first-level cache beside weights and inputs.
WHOLE_MAP_BYTES = 1 << 13
#: Weights of a tile of output blocks that the first-level cache cannot hold.
LARGE_TILE_BYTES = 1 << 15


def whole_map(p: Prepared, tile: Tile) -> bool:
    """Whether to finish one input block for all of the map before the next one.

    On small maps the weights of a tile are read from the second-level cache again for every few
    pixels; in this order once, as all accumulators of the map wait in the first-level cache.
    """
    weight = next(x.shape for x in p.emitted.parameters if x.op.name == p.emitted.weight)
    accumulators = 4 * tile.block_tile * tile.height * tile.width * p.target.simd_lanes
    several = tile.height * tile.width > tile.rows * tile.cols
    large = 4 * prod(int(d) for d in weight[1:]) > LARGE_TILE_BYTES
    tiles, threads = int(weight[0]), p.target.threads
    shared = tiles % threads == 0 or tiles >= 4 * threads
    return several and large and shared and accumulators <= WHOLE_MAP_BYTES


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
    if p.emitted.by_rows:
        part, row = s.split(row, [p.target.threads, None])
        s.reorder(n, part, block, row, col, *reduction, row_in, col_in, block_in, lane)
        n = s.fuse(n, part)
        s.parallel(n)
    if not p.emitted.by_rows and whole_map(p, tile):
        s.reorder(n, block, reduction[0], row, col, *reduction[1:], row_in, col_in, block_in, lane)
        place, outside = block, [n, block]
    else:
        s.reorder(n, block, row, col, *reduction, row_in, col_in, block_in, lane)
        place, outside = col, [n, block, row]
    s.set_scope(acc, 0, "local")
    s.reverse_compute_at(out, place)
    p.finish_tile(out, 4)
    s.vectorize(lane)
    for loop in (row_in, col_in, block_in):
        s.unroll(loop)
    extents = [int(s.get(loop).extent) for loop in (n, block, row)]
    fused = p.parallel(outside) if p.target.threads > 1 and not p.emitted.by_rows else None
    s.decompose_reduction(acc, reduction[0])
    if len(reduction) == 4:
        places = [s.get(loop).loop_var for loop in ([col] if fused else [block, row, col])]
        if fused is not None:
            places = [*_unfused(s.get(fused).loop_var, extents, len(outside)), *places]
        if len(places) < 3:  # the rows of a whole map are not part of the fused loop
            places.insert(1, s.get(row).loop_var)
        sums = [s.get(loop) for loop in reduction]
        passes = [extents[2], int(s.get(col).extent)]
        p.finishers.append(
            lambda function: prefetch_weights(
                function,
                next(v for v in function.params if str(v.name) == p.emitted.weight),
                next(x.shape for x in p.emitted.parameters if x.op.name == p.emitted.weight),
                places,
                [loop.loop_var for loop in sums],
                [*passes, *(int(loop.extent) for loop in sums[:-1])],
            )
        )
    return True


def _unfused(fused: Any, extents: list[int], count: int) -> list[Any]:
    """Tile of output blocks (and row, of three fused loops) from the one loop over batch, tile, row."""
    _, blocks, rows = extents
    if count == 2:
        return [tirx.floormod(fused, blocks)]
    return [tirx.floormod(tirx.floordiv(fused, rows), blocks), tirx.floormod(fused, rows)]
