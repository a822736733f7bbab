"""From the numbers of a choice to what the code generator works with."""

from __future__ import annotations

from hwprune.compile.tiles import ConvGeometry, Tile, ceil_div
from hwprune.errors import CompileError
from hwprune.latency.choice import Choice

#: Direct convolution with a register tile: ``block_tile``, ``rows``, ``cols``.
DIRECT = "direct"


def chosen_tile(g: ConvGeometry, choice: Choice) -> Tile:
    """The register tile that a ``direct`` choice names.

    Raises
    ------
    CompileError
        A number is missing, or the tile does not fit the groups of the convolution.
    """
    numbers = dict(choice.numbers)
    block_tile, rows, cols = (numbers.get(name, 0) for name in ("block_tile", "rows", "cols"))
    per_group = g.out_blocks // g.groups
    if min(block_tile, rows, cols) < 1 or (g.groups > 1 and per_group % block_tile):
        raise CompileError(
            f"'{choice.label()}' is no tile of a convolution with {per_group} output blocks per group",
            hint="delete choices.json and search again",
        )
    return Tile(
        block_tile,
        rows,
        cols,
        ceil_div(g.out_blocks, block_tile) * block_tile,
        ceil_div(g.out_height, rows) * rows,
        ceil_div(g.out_width, cols) * cols,
    )
