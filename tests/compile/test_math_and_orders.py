"""Accuracy of the exponential's family element by element, and orders of loops that pay."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hwprune.compile import compile_program
from hwprune.compile.primfunc import build_primfunc
from hwprune.compile.tiles import ConvGeometry, candidate_tiles, choose_tile
from hwprune.target import load_target
from tests.compile.programs import reference, several_kernels
from tests.compile.test_kernels import conv, unary

KINDS = ("sigmoid", "silu", "tanh", "gelu")


def test_exponentials_are_accurate_everywhere():
    size = 4000
    specs = [unary(k, 1, size, **({"approximate": "none"} if k == "gelu" else {})) for k in KINDS]
    program = several_kernels(specs)
    x = np.linspace(-30, 30, size, dtype=np.float32)[None]
    got = compile_program(program, load_target("host")).run(*[x] * len(specs))
    for kind, a, b in zip(KINDS, got, reference(program, [x] * len(specs)), strict=True):
        absolute = np.abs(a - b)
        if kind in ("sigmoid", "silu"):
            assert (absolute <= 1e-6 * np.abs(b)).all(), kind
        # tanh and the error function come from 1 - y: accurate next to one, not to their size.
        assert (absolute <= 1e-6 * np.maximum(1.0, np.abs(b))).all(), kind


def test_exponentials_saturate_instead_of_overflowing():
    program = several_kernels([unary("sigmoid", 1, 4), unary("silu", 1, 4), unary("tanh", 1, 4)])
    x = np.array([[-1e30, -200.0, 200.0, 1e30]], np.float32)
    sigmoid, silu, tanh = compile_program(program, load_target("host")).run(x, x, x)
    np.testing.assert_allclose(sigmoid, [[0, 0, 1, 1]], atol=1e-6)
    np.testing.assert_allclose(silu[0, 1:], x[0, 1:] * [0, 1, 1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(tanh, [[-1, -1, 1, 1]], atol=1e-6)


def loop_names(spec: object) -> list[str]:
    """Names of the loops around the accumulation, outermost first."""
    text = build_primfunc(spec, load_target("x86-64-avx512")).script()  # type: ignore[arg-type]
    return [name for names in re.findall(r"for ([\w, ]+) in ", text) for name in names.split(", ")]


def test_small_maps_finish_one_input_block_at_a_time():
    names = loop_names(conv(1, 512, 7, 7, 512, 3))
    assert names.index("ic") < names.index("h_0", names.index("ic"))
    # A map that one tile covers, and weights that the first-level cache holds, need no such order.
    large = loop_names(conv(1, 64, 56, 56, 64, 3))
    assert "ic" not in large[: large.index("h_0")]


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_candidates_begin_with_the_choice_and_differ(lanes):
    g = ConvGeometry(
        1, 96, 14, 14, 80, 14, 14, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, lanes, plain_input=False
    )
    tiles = candidate_tiles(g, 32)
    assert tiles[0] == choose_tile(g, 32)
    assert len(set(tiles)) == len(tiles) == 12
    assert len({t.block_tile for t in tiles}) >= 3
