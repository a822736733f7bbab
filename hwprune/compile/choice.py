"""The forms that a kernel may be built in, for a search to measure."""

from __future__ import annotations

from hwprune.compile.chosen import DIRECT
from hwprune.compile.layout import conv_plan
from hwprune.compile.shapes import infer_shapes
from hwprune.compile.tiles import Tile, candidate_tiles
from hwprune.compile.winograd import winograd_choices
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelSpec
from hwprune.target import Target

#: Tilings of one algorithm that are worth measuring.
TILINGS = 12
#: Kernels that have one form only.
FIXED = Choice("fixed")


def choices_for(spec: KernelSpec, target: Target) -> tuple[Choice, ...]:
    """About a dozen ways to build a kernel, the deterministic default first.

    Raises
    ------
    UnsupportedOperatorError
        The kernel cannot be lowered at all.
    """
    conv = next((op for op in spec.ops if op.kind == "conv2d"), None)
    if conv is None:
        return (FIXED,)
    geometry, default = conv_plan(spec, conv, infer_shapes(spec), target)
    tiles = candidate_tiles(geometry, target.vector_registers, TILINGS)
    direct = [_direct(default), *(_direct(tile) for tile in tiles)]
    other = winograd_choices(geometry, target.vector_registers) if target.winograd else ()
    return tuple(dict.fromkeys([*direct, *other]))


def _direct(tile: Tile) -> Choice:
    return Choice.of(DIRECT, block_tile=tile.block_tile, rows=tile.rows, cols=tile.cols)
