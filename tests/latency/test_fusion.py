"""Fusion: the kernels compute what the model computes, and fuse what they should."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as f

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.fused import FusedGraph
from hwprune.latency.fusion import fuse
from tests.latency.interpreter import run
from tests.zoo import small_torchvision, torchvision_models


def random_statistics(model: nn.Module) -> nn.Module:
    """BatchNorms with statistics and affine parameters that a wrong folding would show."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model.eval()


def fused_of(model: nn.Module, *inputs: torch.Tensor) -> FusedGraph:
    return fuse(capture(model, inputs).graph)


def chains(fused: FusedGraph) -> list[str]:
    return ["+".join(op.kind for op in step.ops) for step in fused.steps]


def assert_equal_to_model(model: nn.Module, *inputs: torch.Tensor) -> FusedGraph:
    random_statistics(model)
    fused = fused_of(model, *inputs)
    found = run(fused.program(), *inputs)
    with torch.no_grad():
        expected = model.double()(*[x.double() for x in inputs])
    expected = expected if isinstance(expected, tuple) else (expected,)
    for a, b in zip(found, expected, strict=True):
        # Weights are folded in float64 and kept in float32.
        assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())
    return fused


class Residual(nn.Module):
    def __init__(self, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8 if project else 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8 if project else 4)
        self.short = nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)) if project else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(f.relu(self.bn1(self.conv1(x)))))
        return f.relu(y + self.short(x))


def test_identity_shortcut_joins_the_convolution() -> None:
    fused = assert_equal_to_model(Residual(False), torch.randn(2, 4, 6, 6))
    assert chains(fused) == ["conv2d+relu", "conv2d+add+relu"]
    assert [s.name for s in fused.steps] == ["conv1", "conv2"]


def test_projection_shortcut_takes_the_sum() -> None:
    # The branch comes first in the graph, so the sum can only join the later kernel.
    fused = assert_equal_to_model(Residual(True), torch.randn(1, 4, 6, 6))
    assert chains(fused) == ["conv2d+relu", "conv2d", "conv2d+add+relu"]


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = f.silu(self.conv(x))
        gate = self.up(f.relu(self.down(f.adaptive_avg_pool2d(x, 1)))).sigmoid()
        return (x * gate).mean((2, 3))


def test_gate_does_not_swallow_the_tensor_it_scales() -> None:
    fused = assert_equal_to_model(SqueezeExcite(), torch.randn(1, 3, 9, 9))
    assert chains(fused) == ["conv2d+silu", "mean_hw", "conv2d+relu", "conv2d+sigmoid", "mul", "mean_hw"]


class Branches(nn.Module):
    """Shared values, a doubled value, concat, a BatchNorm with no convolution, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 7, 3, bias=False)
        self.bn = nn.BatchNorm2d(12)
        self.dw = nn.Conv2d(12, 12, 3, stride=(2, 1), padding=(1, 0), groups=12)
        self.grouped = nn.Conv2d(12, 8, 3, groups=4, dilation=2, padding=2)
        self.fc, self.norm = nn.Linear(8 * 4 * 4, 6), nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = self.a(x)
        joined = torch.cat([a + a, f.leaky_relu(self.b(x), 0.2)], 1)
        y = f.hardswish(self.bn(joined))
        y = f.gelu(self.grouped(self.dw(y)))
        pooled = f.max_pool2d(f.avg_pool2d(y, 3, 1, 1), 1)
        flat = f.dropout(torch.flatten(pooled, 1), training=self.training)
        return torch.tanh(self.norm(self.fc(flat))), a


def test_branches() -> None:
    fused = assert_equal_to_model(Branches(), torch.randn(2, 3, 10, 8))
    assert "flatten+linear+tanh" in chains(fused)
    assert "depthwise_conv2d" in chains(fused)
    leaving = [s for s in fused.steps if s.plain_output]
    assert [s.name for s in leaving] == ["a"]


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "vgg11_bn", "mobilenet_v3_small", "densenet121"]
)
def test_torchvision(name: str) -> None:
    model = small_torchvision(name)
    fused = assert_equal_to_model(model, torch.randn(1, 3, 64, 64))
    assert not any("scale_shift" in c for c in chains(fused) if c.startswith("conv2d+")) or "dense" in name


def test_families_follow_the_groups() -> None:
    model = torchvision_models().mobilenet_v2().eval()
    captured = capture(model, (torch.randn(1, 3, 64, 64),))
    deps = analyse(captured)
    fused = fuse(captured.graph)
    families = fused.families(deps.extents)
    assert [k.at(deps.dense_widths) for k in families] == [s.spec for s in fused.program().steps]
    widths = {g.name: max(1, g.size // 2) for g in deps.groups}
    for family in families:
        spec = family.at(widths)
        if spec.anchor == "depthwise_conv2d":
            assert spec.inputs[0].shape[1] == spec.inputs[1].shape[0] == widths[family.groups[0]]
        if spec.anchor == "conv2d":
            assert spec.inputs[0].shape[1] == spec.inputs[1].shape[1]


def test_an_operator_without_a_kernel_falls_back() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(self.conv(x), 1).relu()

    fused = assert_equal_to_model(Net(), torch.randn(1, 3, 8, 8))
    assert chains(fused) == ["conv2d", "fallback", "relu"]
    (spec,) = [f.at({}) for f in fused.families() if f.ops[0].kind == "fallback"]
    assert spec.plain_output
    assert [i.role for i in spec.inputs] == ["input"]
    assert "aten.cumsum.default" in spec.label()


def test_what_not_even_a_fallback_can_hold_names_layer_and_operator() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (x.argmax(1, keepdim=True) + 1)

    with pytest.raises(UnsupportedOperatorError, match="argmax"):
        fused_of(Net().eval(), torch.randn(1, 3, 8, 8))
