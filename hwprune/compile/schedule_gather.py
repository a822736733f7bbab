"""Moving channels to other lanes: everything but the pixel is known when the code is made."""

from __future__ import annotations

from hwprune.compile.prepared import Prepared

#: Channel blocks that are unrolled: more makes code that takes long to compile.
MOST_BLOCKS = 32


def gather_rule(p: Prepared) -> bool:
    """One loop over pixels for every output block, its lanes (and, if few, the blocks) unrolled."""
    if p.emitted.family != "gather":
        return False
    s = p.schedule
    name = next((k for k in sorted(p.emitted.kept) if k in p.blocks), p.emitted.final)
    block = p.blocks.pop(name)
    blocks = p.extents(block)[1]
    n, c, h, w, lane = s.get_loops(block)
    if p.target.threads > 1:
        s.reorder(n, h, c, w, lane)
        p.parallel([n, h])
    else:
        s.fuse(h, w)
    if blocks <= MOST_BLOCKS:
        s.unroll(c)
    s.unroll(lane)
    return True
