"""Winograd convolution: which kernels may use it, its tiling, and its weights (numpy only)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwprune.compile.tiles import ConvGeometry, ceil_div, step_cycles
from hwprune.compile.winograd_matrices import SIZES, TAPS, transforms
from hwprune.errors import CompileError
from hwprune.latency.choice import Choice

WINOGRAD = "winograd"
#: Fewer channels on either side leave the transforms too little work to pay for them.
LEAST_CHANNELS = 32


@dataclass(frozen=True)
class WinogradPlan:
    """A stride-1 3x3 convolution in tiles of ``m`` x ``m`` outputs.

    Each tile becomes ``(m + 2)**2`` points; for every point, the tiles times the transformed
    weights are a matrix product over channels, computed in register tiles of ``block_tile``
    output-channel blocks x ``rows`` x ``cols`` tiles. ``chunk`` rows of tiles go through input
    transform, products and output transform together, so that what lies between stays in cache.
    """

    m: int
    chunk: int
    block_tile: int
    rows: int
    cols: int
    in_blocks: int
    out_blocks: int
    tile_rows: int
    tile_cols: int
    lanes: int

    @property
    def size(self) -> int:
        """Input rows and columns of a tile."""
        return self.m + TAPS - 1

    @property
    def padded(self) -> tuple[int, int]:
        """Input rows and columns that all tiles together read."""
        return (self.m * self.tile_rows + TAPS - 1, self.m * self.tile_cols + TAPS - 1)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Physical shape of the transformed weights."""
        blocks = self.out_blocks // self.block_tile
        return (self.size**2 * blocks, self.in_blocks, self.lanes, self.block_tile * self.lanes)


def is_winograd(choice: Choice | None) -> bool:
    """Whether a choice names this algorithm."""
    return choice is not None and choice.rule == WINOGRAD


def fits(g: ConvGeometry) -> bool:
    """Whether a convolution can be computed this way at all, with any hope of a gain."""
    return (
        g.kernel == (TAPS, TAPS)
        and g.stride == (1, 1)
        and g.dilation == (1, 1)
        and g.groups == 1
        and not g.plain_input
        and min(g.channels, g.out_channels) >= LEAST_CHANNELS
    )


def winograd_plan(g: ConvGeometry, choice: Choice) -> WinogradPlan:
    """The plan that a ``winograd`` choice names.

    Raises
    ------
    CompileError
        The convolution cannot be computed this way, or the numbers do not divide its tiles.
    """
    numbers = dict(choice.numbers)
    m, chunk, block_tile, rows, cols = (
        numbers.get(name, 0) for name in ("m", "chunk", "block_tile", "rows", "cols")
    )
    if fits(g) and m in SIZES and min(chunk, block_tile, rows, cols) > 0:
        tile_rows, tile_cols = ceil_div(ceil_div(g.out_height, m), chunk) * chunk, ceil_div(g.out_width, m)
        if not (g.out_blocks % block_tile or chunk % rows or tile_cols % cols):
            return WinogradPlan(
                m, chunk, block_tile, rows, cols, g.in_blocks, g.out_blocks, tile_rows, tile_cols, g.lanes
            )
    raise CompileError(
        f"'{choice.label()}' does not fit a convolution of {g.channels} to {g.out_channels} channels"
        f" with output {g.out_height}x{g.out_width}",
        hint="delete choices.json and search again",
    )


def winograd_choices(g: ConvGeometry, vector_registers: int) -> tuple[Choice, ...]:
    """Forms worth measuring, the most promising first; none where the convolution does not fit."""
    if not fits(g):
        return ()
    return tuple(
        choice
        for m in reversed(SIZES)
        for chunk in _chunks(g, m)
        for choice in _tilings(g, m, chunk, vector_registers)
    )


#: Bytes of transformed inputs and products of one chunk that a second-level cache holds.
CHUNK_BYTES = 3 << 18
#: All tiles together, if they take at most this: they then come from the outermost cache.
WHOLE_BYTES = 1 << 24


def _chunks(g: ConvGeometry, m: int) -> tuple[int, ...]:
    """Rows of tiles to take together.

    Every chunk reads all weights. Small ones stay in the second-level cache, and so may the chunk;
    large ones want a chunk as large as they are, or all of the map.
    """
    tile_rows, tile_cols = ceil_div(g.out_height, m), ceil_div(g.out_width, m)
    point_bytes = 4 * (m + TAPS - 1) ** 2 * g.lanes
    row_bytes = point_bytes * tile_cols * (g.in_blocks + g.out_blocks)
    weight_bytes = point_bytes * g.in_blocks * g.out_blocks * g.lanes
    sizes = [CHUNK_BYTES if weight_bytes <= 2 * CHUNK_BYTES else min(weight_bytes, WHOLE_BYTES)]
    if row_bytes * tile_rows <= WHOLE_BYTES:
        sizes.append(WHOLE_BYTES)
    return tuple(dict.fromkeys(_even(tile_rows, max(1, size // row_bytes)) for size in sizes))


def _even(tile_rows: int, most: int) -> int:
    """At most this many rows at once, with few rows that stick out at the end."""
    return min(
        range(1, min(most, tile_rows) + 1),
        key=lambda chunk: ceil_div(tile_rows, chunk) * (chunk + 0.3),
    )


def _tilings(g: ConvGeometry, m: int, chunk: int, vector_registers: int, most: int = 2) -> list[Choice]:
    """The register tiles with the fewest cycles per multiply-add, of different block counts."""
    found: dict[int, tuple[float, Choice]] = {}
    tile_cols = ceil_div(g.out_width, m)
    for block_tile in (t for t in range(1, 7) if g.out_blocks % t == 0):
        for cols in (c for c in range(1, tile_cols + 1) if tile_cols % c == 0):
            for rows in (r for r in range(1, chunk + 1) if chunk % r == 0):
                pixels = rows * cols
                if pixels * block_tile > min(28, vector_registers - 1 - block_tile):
                    continue
                cost = step_cycles(block_tile, pixels) / (block_tile * pixels)
                numbers = Choice.of(WINOGRAD, m=m, chunk=chunk, block_tile=block_tile, rows=rows, cols=cols)
                if block_tile not in found or cost < found[block_tile][0]:
                    found[block_tile] = (cost, numbers)
    return [choice for _, choice in sorted(found.values(), key=lambda item: item[0])[:most]]


def pack_winograd(array: np.ndarray, plan: WinogradPlan) -> np.ndarray:
    """Weights ``[O, I, 3, 3]`` to points ``[(m+2)**2 * O/(b t), I/b, b, t b]``, zeros in the tails.

    Computed in float64: the only rounding is that of the result.
    """
    _, g, _ = transforms(plan.m)
    outputs, inputs = array.shape[:2]
    points = np.einsum("ak,oikl,bl->aboi", g, array.astype(np.float64), g)
    blocks, t, lanes = plan.out_blocks, plan.block_tile, plan.lanes
    full = np.zeros((plan.size**2, blocks * lanes, plan.in_blocks * lanes), np.float32)
    full[:, :outputs, :inputs] = points.reshape(plan.size**2, outputs, inputs)
    view = full.reshape(plan.size**2, blocks // t, t, lanes, plan.in_blocks, lanes)
    return view.transpose(0, 1, 4, 5, 2, 3).reshape(plan.weight_shape)
