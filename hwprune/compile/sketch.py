"""A space of schedules for MetaSchedule that knows what its own rules do not: lanes stay vectors.

MetaSchedule's rules split every axis as they like, also the innermost one of a packed tensor, and
most of what they draw is scalar code: after the same seconds their best was 1.6 (a dense layer) and
2.5 times (depthwise convolution) slower than the best of this space. Here that axis is one vector
throughout and a tile of vectors stays in registers, as in our own schedules; what is drawn is how all
other axes are split over three levels, how the sums are split over two, and how much is unrolled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwprune.compile.emitter import Emitted
from hwprune.compile.prepared import Prepared, pointwise
from hwprune.target import Target

#: Longest piece of one axis inside a tile of registers, and of one summed axis inside the loops there.
TILE, SUMMED = 8, 16
#: Steps that may be unrolled around a tile.
UNROLLED = (0, 16, 64, 512)


def sketch(emitted: Emitted, target: Target) -> Callable[[Any], None] | None:
    """A function that schedules the kernel with random numbers; None for kernels it is not made for."""
    if emitted.family not in ("conv", "window", "linear", "reduce"):
        return None

    def scheduled(s: Any) -> None:
        blocks = {str(s.get(b).name_hint): b for b in s.get_child_blocks(s.get_sblock("root"))}
        p = Prepared(s, emitted, target, blocks)
        acc = blocks["acc"]
        loops, rank = s.get_loops(acc), len(s.get(acc).writes[0].region)
        *spatial, lane = loops[:rank]
        pieces = [s.split(x, s.sample_perfect_tile(x, 3, TILE)) for x in spatial]
        sums = [s.split(x, s.sample_perfect_tile(x, 2, SUMMED)) for x in loops[rank:]]
        outer, middle, inner = ([piece[level] for piece in pieces] for level in range(3))
        far, near = ([piece[level] for piece in sums] for level in range(2))
        placed = emitted.family in ("conv", "window")
        cached = None if placed else s.cache_write(acc, 0, "local")
        s.reorder(*outer, *middle, *far, *near, *inner, lane)
        if placed:
            s.set_scope(acc, 0, "local")
            out = blocks.pop(emitted.final)
            # Traces are replayed with other numbers: the count of loops must not depend on them.
            s.reverse_compute_at(out, middle[-1], preserve_unit_loops=True)
            p.finish_tile(out, len(outer) + len(middle))
        else:
            s.reverse_compute_at(cached, middle[-1], preserve_unit_loops=True)
            s.vectorize(s.get_loops(cached)[-1])
        s.vectorize(lane)
        for loop in inner:
            s.unroll(loop)
        steps = s.sample_categorical(list(UNROLLED), [1 / len(UNROLLED)] * len(UNROLLED))
        s.annotate(near[0], "pragma_auto_unroll_max_step", steps)
        s.annotate(near[0], "pragma_unroll_explicit", 1)
        if target.threads > 1:
            p.parallel(outer)
        s.decompose_reduction(acc, far[0])
        for name, block in blocks.items():
            if name not in ("acc", "pad"):
                pointwise(p, block)

    return scheduled


def unrolled_tile(schedule: Any) -> int:
    """Vectors in the register tile of a schedule drawn here; 0 for any other schedule."""
    try:
        block = schedule.get_sblock("acc_update")
    except Exception:  # no such block
        return 0
    size = 1
    unrolled = 3
    for loop in schedule.get_loops(block):
        node = schedule.get(loop)
        size *= int(node.extent) if int(node.kind) == unrolled else 1
    return size
