"""Fetching the weights of the next output-channel tile while this one is computed.

In a network the weights of a layer come from memory; on small maps that takes as long as the
arithmetic, and one would wait for the other. Each tile therefore asks for a share of the weights
that the next tile will read, spread evenly over its own reduction.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from hwprune.compile.tvm_api import PrimFunc, s_tir, tirx

#: Layers with fewer bytes of weights stay in the second-level cache anyway.
WORTHWHILE_BYTES = 1 << 17
CACHE_LINE = 64


def prefetch_weights(
    function: PrimFunc,
    weight: Any,
    shape: Sequence[Any],
    loops: Sequence[Any],
    reduction: Sequence[Any],
    extents: Sequence[int],
) -> PrimFunc:
    """Insert prefetches into a scheduled convolution.

    Parameters
    ----------
    function
        The scheduled PrimFunc.
    weight
        Its weight parameter ``[tiles, ...]`` of ``shape``; one tile is contiguous.
    loops
        Variables of the loops over weight tiles, row tiles and column tiles.
    reduction
        Variables of the reduction loops; the prefetches go in front of the last one.
    extents
        Extents of row tiles, column tiles, and of the reduction loops but the last.
    """
    tile_bytes = 4 * prod(int(d) for d in shape[1:])
    rows, cols, *outer = extents
    steps, passes = prod(outer), rows * cols
    share = -(-tile_bytes // (CACHE_LINE * passes * steps))
    # With very many passes even one line a time would run far past the next tile; the wait for
    # weights is then a small part of the whole anyway.
    past = share * passes * steps * CACHE_LINE > 2 * tile_bytes
    if past or tile_bytes * int(shape[0]) < WORTHWHILE_BYTES:
        return function
    number: Any = loops[1] * cols + loops[2]
    for var, extent in zip(reduction[:-1], outer, strict=True):
        number = number * extent + var
    line = tirx.Var("line", "int32")
    floats = (number * share + line) * (CACHE_LINE // 4)
    place = tirx.BufferLoad(weight, [loops[0] + 1, *([0] * (len(shape) - 2)), floats])
    # Read access, into the second-level cache, data.
    ask = tirx.call_intrin("void", "tirx.prefetch", tirx.address_of(place), 0, 2, 1)
    fetch = tirx.For(line, 0, share, tirx.ForKind.SERIAL, tirx.Evaluate(ask))
    return function.with_body(_insert(function.body, reduction[-1], fetch))


def _insert(node: Any, before: Any, fetch: Any) -> Any:
    """The statement with ``fetch`` in front of the loop over ``before``."""
    if isinstance(node, tirx.For):
        if node.loop_var.same_as(before):
            return tirx.SeqStmt([fetch, node])
        body = _insert(node.body, before, fetch)
        return tirx.For(
            node.loop_var, node.min, node.extent, node.kind, body, node.thread_binding, node.annotations
        )
    if isinstance(node, tirx.SeqStmt):
        return tirx.SeqStmt([_insert(part, before, fetch) for part in node.seq])
    if isinstance(node, s_tir.SBlockRealize):
        block = node.block
        if block.init is not None or len(block.iter_vars):
            return node
        body = _insert(block.body, before, fetch)
        inner = s_tir.SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, body, block.init,
            block.alloc_buffers, block.match_buffers, block.annotations,
        )  # fmt: skip
        return s_tir.SBlockRealize(node.iter_values, node.predicate, inner)
    return node
