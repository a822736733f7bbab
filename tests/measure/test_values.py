"""Values of kernels: the reference itself, and what is said of libraries that return other values."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hwprune.compile import build_kernel_library
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.kernel import OP_KINDS, KernelInput, KernelOp, KernelSpec
from hwprune.latency.program import Program, Source, Step
from hwprune.measure.build import BuildJob
from hwprune.measure.reference import REFERENCES, reference
from hwprune.measure.values import CheckPool, LibraryCheck, arguments, compare, unpacked
from hwprune.target import load_target
from tests.latency import interpreter
from tests.measure.fakes import conv

X, Y, MAP, FLAT = (2, 6, 7, 8), (2, 6, 7, 8), (2, 6, 1, 1), (3, 10)
CONV = {"dilation": (1, 2), "padding": (1, 0, 2, 1), "stride": (2, 1)}
POOL = {"kernel": (3, 2), "padding": (1, 1, 1, 1), "stride": (2, 2)}

#: Kind, shapes of the arguments (None: absent), attributes.
CASES: list[tuple[str, list[tuple[int, ...] | None], Mapping[str, object]]] = [
    ("conv2d", [X, (4, 3, 3, 2), (4,)], {**CONV, "groups": 2}),
    ("conv2d", [X, (4, 6, 3, 2), None], {**CONV, "groups": 1}),
    ("depthwise_conv2d", [X, (6, 1, 3, 3), (6,)], CONV),
    ("linear", [FLAT, (4, 10), (4,)], {}),
    ("max_pool2d", [X], {**POOL, "ceil_mode": 1, "dilation": (1, 1)}),
    ("avg_pool2d", [X], {**POOL, "ceil_mode": 0, "count_include_pad": 0}),
    ("avg_pool2d", [X], {**POOL, "ceil_mode": 1, "count_include_pad": 1}),
    ("adaptive_avg_pool2d", [X], {"output": (3, 2)}),
    ("mean_hw", [X], {"keepdim": 1}),
    ("mean_hw", [X], {"keepdim": 0}),
    ("cat", [X, Y, X], {}),
    ("layer_norm", [X, (6,), (6,)], {"eps": 1e-5}),
    ("layer_norm", [FLAT, None, None], {"eps": 1e-5}),
    ("softmax", [X], {}),
    ("channel_slice", [X], {"start": 1, "length": 3}),
    ("channel_shuffle", [X], {"groups": 3}),
    ("pixel_shuffle", [(1, 8, 3, 4)], {"factor": 2}),
    ("upsample_nearest", [X], {"scale": (2, 3)}),
    ("pad2d", [X], {"padding": (1, 2, 0, 3), "value": 0.5}),
    ("as_map", [FLAT], {}),
    ("scale_shift", [X, (6,), (6,)], {}),
    ("scale_shift", [FLAT, (10,), (10,)], {}),
    ("affine", [X], {"scale": 1.5, "shift": -0.25}),
    *((kind, [X, MAP], {}) for kind in ("add", "mul", "sub", "div")),
    *((kind, [X], {}) for kind in ("relu", "hardswish", "hardsigmoid", "silu", "sigmoid", "tanh", "flatten")),
    ("clamp", [X], {"max": 0.5, "min": -0.1}),
    ("leaky_relu", [X], {"slope": 0.1}),
    ("gelu", [X], {"approximate": "none"}),
    ("gelu", [X], {"approximate": "tanh"}),
    ("spread", [X], {"stride": (2, 3)}),
    (
        "fallback",
        [X],
        {"arguments": '[[{"tensor":0},[2,3]],{}]', "item": -1, "shape": X, "target": "aten.flip.default"},
    ),
]


def spec_of(kind: str, shapes: list[tuple[int, ...] | None], attributes: Mapping[str, object]) -> KernelSpec:
    present = [s for s in shapes if s is not None]
    places = iter(range(len(present)))
    args = tuple(-1 if s is None else next(places) for s in shapes)
    roles = ["data", *["weight"] * (len(present) - 1)]
    inputs = tuple(KernelInput(s, r) for s, r in zip(present, roles, strict=True))
    return KernelSpec(inputs, (KernelOp(kind, args, tuple(sorted(attributes.items()))),))  # type: ignore[arg-type]


def test_every_kind_has_a_reference_and_a_case():
    assert set(REFERENCES) == set(OP_KINDS) == {case[0] for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=[c[0] for c in CASES])
def test_reference_agrees_with_the_interpreter(case):  # type: ignore[no-untyped-def]
    kind, shapes, attributes = case
    spec = spec_of(kind, shapes, attributes)
    arrays = arguments(spec)
    sources = tuple(Source("input" if n == 0 else "weight", max(0, n - 1)) for n in range(len(arrays)))
    program = Program(
        (arrays[0].shape,), (Step("s", spec, sources),), (Source("step", 0),), tuple(arrays[1:])
    )
    (expected,) = interpreter.run(program, torch.from_numpy(arrays[0]))
    found = reference(spec, [torch.from_numpy(a) for a in arrays])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_operators_in_a_row_and_unknown_ones():
    spec = conv(4)
    arrays = [torch.from_numpy(a) for a in arguments(spec)]
    whole = reference(spec, arrays)
    bare = reference(KernelSpec(spec.inputs, spec.ops[:1]), arrays)
    assert torch.equal(whole, bare.relu())
    assert bool((bare < 0).any())
    odd = KernelSpec(spec.inputs[:1], (KernelOp("erf", (0,)),))
    with pytest.raises(UnsupportedOperatorError, match=r"'erf' has no reference"):
        reference(odd, arrays[:1])


def test_arguments_tell_places_apart():
    spec = KernelSpec(
        (KernelInput((1, 64, 64, 64), "data"), KernelInput((1, 64, 64, 64), "data")),
        (KernelOp("sub", (0, 1)),),
    )
    one, two = arguments(spec)
    assert one.dtype == np.float32
    assert abs(one.mean()) < 0.05 and 0.9 < one.std() < 1.1
    assert not np.array_equal(one, two)
    planes = one.reshape(64, -1)
    assert len({plane.tobytes() for plane in planes}) == 64


def test_comparison():
    expected = np.array([[1.0, -4.0], [2.0, 0.0]], np.float32)
    assert compare(expected + np.float32(3e-4), expected, 1e-4).complaint is None
    wrong = compare(expected + np.array([[0, 0], [0, 0.5]], np.float32), expected, 1e-4)
    assert wrong.difference == pytest.approx(0.125)
    assert "0.5 instead of 0 at [1,1]" in str(wrong.complaint)
    assert "shape (2,) instead of (2, 2)" in str(compare(expected[0], expected, 1e-4).complaint)
    broken = expected.copy()
    broken[0] = np.nan, np.inf
    assert "2 values that are not finite" in str(compare(broken, expected, 1e-4).complaint)
    assert "2 values that are not finite" in str(compare(expected, broken, 1e-4).complaint)
    # what is undefined in both is no mistake, and hides none
    assert compare(broken, broken, 1e-4).complaint is None
    assert compare(broken + np.float32(1), broken, 1e-4).complaint is not None
    nothing = np.full(3, np.nan, np.float32)
    assert compare(nothing, nothing, 1e-4).unchecked is not None


def test_unpacking_drops_the_lanes_behind_the_last_channel():
    logical = np.arange(2 * 6 * 3 * 5, dtype=np.float32).reshape(2, 6, 3, 5)
    full = np.full((2, 8, 3, 5), np.nan, np.float32)
    full[:, :6] = logical
    packed = full.reshape(2, 2, 4, 3, 5).transpose(0, 1, 3, 4, 2)
    assert np.array_equal(unpacked(packed, logical.shape), logical)
    assert np.array_equal(unpacked(logical, logical.shape), logical)


@pytest.fixture(scope="module")
def target():
    return load_target("host", threads=1)


def test_real_libraries_are_told_right_from_wrong(tmp_path: Path, target):  # type: ignore[no-untyped-def]
    # 20 and 12 channels: the last block of lanes is not full.
    spec = conv(20, 12, 9)
    path = tmp_path / "right.so"
    build_kernel_library(spec, target, path, 3)
    bare = KernelSpec(spec.inputs, spec.ops[:1])
    unknown = KernelSpec(spec.inputs, (*spec.ops, KernelOp("erf", (3,))))
    nowhere = tmp_path / "nowhere.so"
    jobs = [
        BuildJob(spec, path, 3),
        BuildJob(bare, path, 3),
        BuildJob(spec, nowhere, 3),
        BuildJob(unknown, path, 3),
    ]
    pool = CheckPool(target, processes=1)
    try:
        found = {(job.spec, job.path): verdict for job, verdict in pool.check(jobs)}
    finally:
        pool.close()
    right = found[spec, path]
    assert right.complaint is None and right.unchecked is None
    assert right.difference < 1e-5
    assert "returned wrong values: 0 instead of -" in str(found[bare, path].complaint)
    assert "cannot be run" in str(found[spec, nowhere].complaint)
    assert "'erf' has no reference" in str(found[unknown, path].unchecked)
    assert found[unknown, path].complaint is None


def test_other_types_are_left_unchecked(tmp_path: Path, target):  # type: ignore[no-untyped-def]
    spec = conv(8)
    half = KernelSpec(tuple(replace(i, dtype="float16") for i in spec.inputs), spec.ops)
    check = LibraryCheck(half.canonical(), target.model_dump(mode="json"), str(tmp_path / "x.so"), None)
    assert "float32" in check.verdict()["unchecked"]
