"""Tile choice and weight packing, without TVM."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.compile.layout import input_layouts, output_shape, pack_activation
from hwprune.compile.shapes import infer_shapes, kernel_flops, pooled_length
from hwprune.compile.tiles import ConvGeometry, choose_row_tile, choose_tile, merged_groups, splits_rows
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.kernel import KernelSpec
from hwprune.target import load_target
from tests.compile.programs import data, normal, op, weight

AVX512 = load_target("x86-64-avx512")


def geometry(channels, out_channels, height, width, kernel=3, stride=1, lanes=16, groups=1):
    pad = kernel // 2
    return ConvGeometry(
        1, channels, height, width, out_channels, (height - 1) // stride + 1, (width - 1) // stride + 1,
        (kernel, kernel), (stride, stride), (pad, pad, pad, pad), (1, 1), groups, lanes, plain_input=False,
        group_blocks=(channels // groups // lanes, out_channels // groups // lanes),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 700), st.integers(1, 60), st.integers(1, 60),
    st.sampled_from([1, 3, 5]), st.sampled_from([(16, 32), (8, 16), (4, 32), (1, 16)]),
)  # fmt: skip
def test_tiles_cover_the_output_and_fit_the_registers(c, o, h, w, k, isa):
    lanes, registers = isa
    g = geometry(c, o, h, w, k, lanes=lanes)
    t = choose_tile(g, registers)
    assert t.block_tile * t.rows * t.cols + t.block_tile + 1 <= registers
    assert t.blocks % t.block_tile == t.height % t.rows == t.width % t.cols == 0
    assert 0 <= t.blocks - g.out_blocks < t.block_tile
    assert 0 <= t.height - g.out_height < t.rows
    assert 0 <= t.width - g.out_width < t.cols
    assert choose_tile(g, registers) == t


def test_tile_of_common_layers():
    # Two blocks by fourteen columns was the fastest of a sweep wherever rows are a multiple of 14.
    for channels, size in ((64, 56), (128, 28), (256, 14)):
        t = choose_tile(geometry(channels, channels, size, size), 32)
        assert (t.block_tile, t.rows * t.cols) == (2, 14)
    # Fewer registers, smaller tile; a column of overhang may be cheaper than a bad tile.
    assert choose_tile(geometry(64, 64, 56, 56, lanes=8), 16).width <= 57


def test_grouped_tiles_stay_inside_a_group():
    t = choose_tile(geometry(96, 96, 14, 14, groups=2), 32)
    assert 3 % t.block_tile == 0


@pytest.mark.parametrize(
    ("channels", "out", "groups", "left", "blocks"),
    [
        (64, 64, 1, 1, (0, 0)), (64, 64, 4, 4, (1, 1)), (64, 64, 8, 4, (1, 1)), (64, 128, 64, 4, (1, 2)),
        (24, 36, 3, 1, (0, 0)), (60, 60, 5, 2, (3, 3)), (104, 104, 13, 7, (1, 1)), (120, 120, 5, 3, (3, 3)),
    ],
)  # fmt: skip
def test_groups_are_joined_to_whole_blocks(channels, out, groups, left, blocks):
    assert merged_groups(channels, out, groups, lanes=16) == (left, blocks)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 130), st.sampled_from([1, 3, 5, 7, 24]), st.sampled_from([16, 32]))
def test_row_tiles_cover_the_row(width, kernel, registers):
    t = choose_row_tile((1, 16, 5, width), (kernel, kernel), 16, registers)
    assert t.width % t.cols == 0
    assert 0 <= t.width - width < t.cols <= 28


def test_threads_share_out_rows_of_large_maps_and_channels_of_small_ones():
    for g, expected in ((geometry(64, 64, 56, 56), True), (geometry(512, 512, 7, 7), False)):
        tile = choose_tile(g, 32)
        assert splits_rows(g, tile, 2) is expected
        assert not splits_rows(g, tile, 1)


def test_unaligned_channels_cost_the_next_multiple():
    def layouts(c, o):
        spec = KernelSpec(
            (data(1, c, 8, 8), weight(o, c, 3, 3), weight(o)),
            (op("conv2d", 0, 1, 2, dilation=(1, 1), groups=1, padding=(1, 1, 1, 1), stride=(1, 1)),),
        )
        return [i.shape for i in input_layouts(spec, AVX512)], output_shape(spec, AVX512)

    assert layouts(17, 33) == layouts(32, 48)
    assert layouts(32, 48) != layouts(33, 48)


def test_packed_activation_keeps_every_channel_and_zeros_the_tail():
    x = normal(2, 20, 3, 4)
    packed = pack_activation(x, 16)
    assert packed.shape == (2, 2, 3, 4, 16)
    for c in range(20):
        assert np.array_equal(packed[:, c // 16, :, :, c % 16], x[:, c])
    assert not packed[:, 1, :, :, 4:].any()


def test_linear_weights_follow_a_packed_flatten():
    spec = KernelSpec(
        (data(1, 20, 2, 3), weight(5, 120), weight(5)), (op("flatten", 0), op("linear", 3, 1, 2))
    )
    layout = input_layouts(spec, AVX512)[1]
    x, w = normal(1, 20, 2, 3), normal(5, 120)
    packed = layout.pack(w)
    got = np.einsum("okl,k->ol", packed, pack_activation(x, 16).reshape(-1)).reshape(-1)[:5]
    assert np.allclose(got, x.reshape(1, -1) @ w.T, atol=1e-4)


def test_a_weight_used_in_two_ways_is_refused():
    spec = KernelSpec(
        (data(1, 16, 4, 4), weight(16, 16, 1, 1)),
        (
            op("conv2d", 0, 1, -1, dilation=(1, 1), groups=1, padding=(0, 0, 0, 0), stride=(1, 1)),
            op("mul", 2, 1),
        ),
    )
    with pytest.raises(UnsupportedOperatorError):
        input_layouts(spec, AVX512)


def test_shapes_and_flops():
    assert pooled_length(112, 3, 2, (1, 1), 1, ceil=False) == 56
    assert pooled_length(14, 3, 2, (0, 0), 1, ceil=True) == 7
    assert pooled_length(3, 2, 2, (1, 1), 1, ceil=True) == 2  # no window starts in the padding
    spec = KernelSpec(
        (data(2, 8, 10, 10), weight(16, 4, 3, 3), weight(16)),
        (
            op("conv2d", 0, 1, 2, dilation=(1, 1), groups=2, padding=(1, 1, 1, 1), stride=(2, 2)),
            op("relu", 3),
        ),
    )
    assert infer_shapes(spec)[-1] == (2, 16, 5, 5)
    assert kernel_flops(spec) == 2 * (2 * 16 * 25) * (4 * 9) + 2 * 16 * 25
