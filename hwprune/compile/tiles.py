"""Convolution geometry and the choice of register tiles."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from hwprune.compile.shapes import integers
from hwprune.latency.kernel import KernelOp


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class Tile:
    """Register tile of a convolution: output-channel blocks x rows x columns.

    ``height``, ``width`` and ``blocks`` are the output's sizes rounded up to whole tiles.
    """

    block_tile: int
    rows: int
    cols: int
    blocks: int
    height: int
    width: int


@dataclass(frozen=True)
class ConvGeometry:
    """A dense or grouped convolution as the schedule sees it.

    ``groups`` counts *merged* groups: neighbouring groups are joined (with zero weights between
    them) until their channels fill whole SIMD blocks, ``group_blocks`` blocks in and out; the last
    merged group may be incomplete.
    """

    batch: int
    channels: int
    height: int
    width: int
    out_channels: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    lanes: int
    plain_input: bool
    group_blocks: tuple[int, int] = (0, 0)

    @property
    def in_blocks(self) -> int:
        """Input blocks that one output reads (channels, if the input is plain)."""
        if self.groups > 1:
            return self.group_blocks[0]
        return self.channels if self.plain_input else ceil_div(self.channels, self.lanes)

    @property
    def out_blocks(self) -> int:
        """Output blocks, those of an incomplete last group included."""
        if self.groups > 1:
            return self.groups * self.group_blocks[1]
        return ceil_div(self.out_channels, self.lanes)

    def needed(self, out_height: int, out_width: int) -> tuple[int, int]:
        """Rows and columns of (padded) input that an output of this size reads."""
        return tuple(  # type: ignore[return-value]
            (out - 1) * s + (k - 1) * d + 1
            for out, s, k, d in zip(
                (out_height, out_width), self.stride, self.kernel, self.dilation, strict=True
            )
        )

    def needs_copy(self, out_height: int, out_width: int) -> bool:
        """Whether an output of this size reads outside the stored input."""
        height, width = self.needed(out_height, out_width)
        top, left, _, _ = self.padding
        return bool(top or left or height > self.height or width > self.width)


def merged_groups(channels: int, out_channels: int, groups: int, lanes: int) -> tuple[int, tuple[int, int]]:
    """How many groups are left after joining neighbours to whole SIMD blocks, and their blocks.

    Half of a joined block's weights are zeros if two groups share it; that costs no more than
    two vectors of half the length would.
    """
    if groups == 1:
        return 1, (0, 0)
    inner, outer = channels // groups, out_channels // groups
    need_in, need_out = lanes // gcd(inner, lanes), lanes // gcd(outer, lanes)
    join = need_in * need_out // gcd(need_in, need_out)
    if join >= groups:
        return 1, (0, 0)
    return ceil_div(groups, join), (join * inner // lanes, join * outer // lanes)


def conv_geometry(
    op: KernelOp, x: tuple[int, ...], w: tuple[int, ...], out: tuple[int, ...], lanes: int, plain_input: bool
) -> ConvGeometry:
    """Geometry of a ``conv2d`` op from its logical shapes."""
    groups = integers(op, "groups")[0]
    merged, group_blocks = merged_groups(x[1], out[1], groups, lanes)
    return ConvGeometry(
        *x, *out[1:],
        kernel=(w[2], w[3]),
        stride=integers(op, "stride"),  # type: ignore[arg-type]
        padding=integers(op, "padding"),  # type: ignore[arg-type]
        dilation=integers(op, "dilation"),  # type: ignore[arg-type]
        groups=merged,
        lanes=lanes,
        plain_input=plain_input and groups == 1,
        group_blocks=group_blocks,
    )  # fmt: skip


def splits_rows(g: ConvGeometry, tile: Tile, threads: int) -> bool:
    """Whether threads share out rows of the map instead of output channels.

    A thread that owns rows reads what it wrote itself in the layer before, while one that owns
    channels reads inputs from the caches of all others; but every one of them reads all weights.
    """
    maps = g.batch * (g.channels * g.height * g.width + g.out_channels * g.out_height * g.out_width)
    weights = g.out_channels * g.in_blocks * (1 if g.plain_input else g.lanes) * g.kernel[0] * g.kernel[1]
    return threads > 1 and (tile.height // tile.rows) % threads == 0 and weights <= 2 * maps


def accumulator_budget(vector_registers: int) -> int:
    """Accumulators of a one-block tile, so that a weight vector and an input still fit."""
    return min(28, vector_registers - 2)


def step_cycles(block_tile: int, pixels: int) -> float:
    """Cycles of one step of the innermost reduction: ``pixels * block_tile`` multiply-adds.

    A core starts two multiply-adds and up to 1.7 loads a cycle; a multiply-add takes
    four cycles, so fewer than eight of them cannot overlap. Loop control costs half a cycle, and
    every weight stream a little, as weights come from the second-level cache.
    """
    arithmetic = max(block_tile * pixels, 8) / 2
    loads = (block_tile + pixels) / 1.7
    return max(arithmetic, loads) + 0.15 * block_tile + 0.5


def _tile_costs(g: ConvGeometry, vector_registers: int) -> list[tuple[float, Tile]]:
    """Every tile that fits the registers, with its estimated cycles for the whole convolution.

    A tile must leave registers for its weights and one broadcast input. Counted are
    :func:`step_cycles` for every step, the work wasted in tiles that stick out included, clearing
    and storing the accumulators, and a copy of the input if only the overhang needs one.
    """
    per_group = g.out_blocks // g.groups
    found: list[tuple[float, Tile]] = []
    copied = g.needs_copy(g.out_height, g.out_width)
    steps = g.in_blocks * (1 if g.plain_input else g.lanes) * g.kernel[0] * g.kernel[1]
    limit = accumulator_budget(vector_registers)
    for block_tile in range(1, min(6, per_group) + 1):
        if g.groups > 1 and per_group % block_tile:
            continue
        blocks = ceil_div(g.out_blocks, block_tile) * block_tile
        pixels_limit = max(1, min(limit, vector_registers - 1 - block_tile) // block_tile)
        for cols in range(1, min(g.out_width, pixels_limit) + 1):
            width = ceil_div(g.out_width, cols) * cols
            for rows in range(1, min(g.out_height, pixels_limit // cols) + 1):
                height = ceil_div(g.out_height, rows) * rows
                pixels = rows * cols
                tiles = g.batch * (blocks // block_tile) * (height // rows) * (width // cols)
                # Clear, epilogue and store of each accumulator: about two cycles.
                cost = tiles * (step_cycles(block_tile, pixels) * steps + 2.0 * block_tile * pixels)
                if not copied and g.needs_copy(height, width):
                    cost += 2.0 * g.batch * g.in_blocks * g.groups * g.height * g.width
                found.append((cost, Tile(block_tile, rows, cols, blocks, height, width)))
    # Of equally cheap tiles, the widest: its inputs lie side by side.
    found.sort(key=lambda item: (round(item[0]), -item[1].cols, item[1].block_tile))
    return found


def choose_tile(g: ConvGeometry, vector_registers: int) -> Tile:
    """The register tile of a convolution, by a fixed cost rule (no measuring)."""
    return _tile_costs(g, vector_registers)[0][1]


def candidate_tiles(g: ConvGeometry, vector_registers: int, count: int = 12) -> tuple[Tile, ...]:
    """Up to ``count`` tiles worth measuring, best guess first: :func:`choose_tile`'s choice.

    No number of output blocks takes more than a third of the list, so that a wrong estimate of
    weight traffic does not hide the better shape.
    """
    chosen: list[Tile] = []
    for _, tile in _tile_costs(g, vector_registers):
        if sum(other.block_tile == tile.block_tile for other in chosen) < max(1, -(-count // 3)):
            chosen.append(tile)
        if len(chosen) == count:
            break
    return tuple(chosen)


#: Multiply-adds of an unrolled window tile: more makes code that no instruction cache holds.
UNROLLED_LIMIT = 400


def choose_row_tile(out: tuple[int, ...], kernel: tuple[int, ...], lanes: int, vector_registers: int) -> Tile:
    """Row tile of a depthwise convolution or pooling with logical output ``out``.

    As many columns as registers and unrolled code allow, with as little overhang as possible;
    fewer than eight columns cannot hide the latency of an addition.
    """
    limit = min(accumulator_budget(vector_registers), UNROLLED_LIMIT // (kernel[0] * kernel[1]))
    width = out[3]

    def cost(cols: int) -> tuple[float, int]:
        return (ceil_div(width, cols) * (max(cols, 8) + 1), -cols)

    cols = min(range(1, max(2, min(width, max(limit, 4)) + 1)), key=cost)
    return Tile(1, 1, cols, ceil_div(out[1], lanes), out[2], ceil_div(width, cols) * cols)
