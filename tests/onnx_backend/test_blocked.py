"""A kernel alone is the nodes that it is in a network, in the layout it has there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from hwprune.capture import capture
from hwprune.latency.fusion import fuse
from hwprune.latency.kernel import KernelSpec
from hwprune.onnx_backend.export import program_model
from hwprune.onnx_backend.graph import hollow_weights
from hwprune.onnx_backend.kernel_model import UNREAD_BYTES, build_kernel_model
from hwprune.onnx_backend.optimised import optimised_kernel, rewritten
from hwprune.onnx_backend.session import random_array
from hwprune.target import load_target
from tests.compile.programs import data, op
from tests.compile.test_kernels import conv, linear, residual
from tests.zoo import torchvision_models

TARGET = load_target("host-onnxruntime")
#: ONNX Runtime blocks channels where it knows the instruction set.
BLOCKS = TARGET.isa in ("avx2", "avx512")


def nodes_of(network: nn.Module, size: int) -> tuple[Counter[str], Counter[str]]:
    """Operators of a network as ONNX Runtime runs it, and those of its kernels as they are timed."""
    program = fuse(capture(network.eval(), (torch.randn(1, 3, size, size),)).graph).program()
    model = program_model(program, weights_inside=False)
    values = {name: random_array(shape) for name, shape in hollow_weights(model).items()}
    whole = Counter(node.op_type for node in rewritten(model, values, 1).graph.node)
    known: dict[KernelSpec, list[str]] = {}
    for step in program.steps:
        if step.spec not in known:
            known[step.spec] = [node.op_type for node in optimised_kernel(step.spec, 1).nodes]
    return whole, Counter(kind for step in program.steps for kind in known[step.spec])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_kernels_are_the_nodes_of_their_network(name: str) -> None:
    torch.manual_seed(0)
    whole, kernels = nodes_of(getattr(torchvision_models(), name)(), 64)
    assert kernels == whole
    if BLOCKS:
        # The only change of layout is the one behind the last map, which the network pays as well.
        assert (whole["ReorderInput"], whole["ReorderOutput"]) == (0, 1)


def test_plain_ends_keep_their_conversions() -> None:
    """Inputs of a network arrive plain and outputs leave plain: that is part of their kernels."""
    inner = optimised_kernel(conv(1, 32, 8, 8, 32, 3), 1)
    spec = conv(1, 32, 8, 8, 32, 3)
    ends = KernelSpec(
        tuple(type(i)(i.shape, "input") if i.role == "data" else i for i in spec.inputs), spec.ops, True
    )
    outer = optimised_kernel(ends, 1)
    assert [n.op_type for n in inner.nodes] == ["Conv"]
    assert (len(inner.blocked), len(outer.blocked)) == ((2, 0) if BLOCKS else (0, 0))
    if BLOCKS:
        assert [n.op_type for n in outer.nodes] == ["ReorderInput", "Conv", "ReorderOutput"]


def test_a_sum_joins_the_convolution_before_it() -> None:
    """Its other summand must arrive in blocks for that, as it does in a residual network."""
    cut = optimised_kernel(residual(32, 48, 9), 1)
    assert len(cut.inputs) == 2
    if BLOCKS:
        (node,) = cut.nodes
        assert len(node.input) == 4 and any(a.name == "activation" for a in node.attribute)


def test_unaligned_channels_are_filled_up() -> None:
    cut = optimised_kernel(conv(1, 24, 6, 6, 40, 1), 1)
    (shape,) = cut.inputs.values()
    assert shape == ((1, 32, 6, 6) if TARGET.isa == "avx512" else (1, 24, 6, 6))
    assert cut.output_shape == (1, 40, 6, 6)


def test_each_copy_has_its_own_weights_and_shares_the_input(tmp_path: Path) -> None:
    build_kernel_model(linear(1, 64, 48), TARGET, tmp_path / "k", 3)
    model = onnx.load(tmp_path / "k", load_external_data=False)
    assert [n.op_type for n in model.graph.node] == ["Gemm"] * 3
    assert len(model.graph.input) == len(model.graph.output) == 1
    matrices = [name for name, shape in hollow_weights(model).items() if len(shape) == 2]
    assert sorted(matrices) == sorted(n.input[1] for n in model.graph.node) and len(set(matrices)) == 3
    assert (tmp_path / "k").stat().st_size < 10_000, "weights are not stored"


def test_large_results_are_freed_within_a_run(tmp_path: Path) -> None:
    """Results without a reader live to the end of a run, each in cold memory of its own."""
    side = int((UNREAD_BYTES / 4 / 16) ** 0.5)
    spec = KernelSpec((data(1, 16, side, side),), (op("relu", 0),))
    build_kernel_model(spec, TARGET, tmp_path / "k", 4)
    model = onnx.load(tmp_path / "k", load_external_data=False)
    assert [n.op_type for n in model.graph.node] == ["Relu", "Shape"] * 3 + ["Relu"]
