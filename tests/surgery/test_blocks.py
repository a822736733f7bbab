"""Residual blocks are found from the graph, and taking them out is exact."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import hwprune
from hwprune.capture import Captured, capture
from hwprune.dependency import analyse
from hwprune.dependency.blocks import Block, find_blocks
from hwprune.errors import PlanError
from hwprune.surgery import prune_model
from hwprune.surgery.blocks import remove_blocks, zeroed_original
from tests.nets import NETS, conv_bn, settle
from tests.surgery.helpers import IMAGE, random_keep
from tests.zoo import torchvision_models


class Basic(nn.Module):
    def __init__(self, cin: int, cout: int, act: bool = True) -> None:
        super().__init__()
        self.a = conv_bn(cin, 6)
        self.b = nn.Sequential(nn.Conv2d(6, cout, 3, padding=1), nn.BatchNorm2d(cout))
        self.down = nn.Conv2d(cin, cout, 1) if cin != cout else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        y += x if self.down is None else self.down(x)
        return functional.relu(y) if self.act else y


class Stack(nn.Module):
    """Removable, projection, removable, removable behind what may be negative."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.layers = nn.Sequential(Basic(8, 8), Basic(8, 10, act=False), Basic(10, 10), Basic(10, 10, False))
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)).mean((2, 3)))


class Encoder(nn.Module):
    """Two branches in one module, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LayerNorm(12)
        self.mix = nn.Linear(12, 12)
        self.second = nn.LayerNorm(12)
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        x = x + self.mix(y) * torch.sigmoid(y)
        return x + self.down(functional.gelu(self.up(self.second(x))))


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 12)
        self.place = nn.Parameter(torch.randn(1, 7, 12))
        self.blocks = nn.ModuleList([Encoder(), Encoder()])
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def found(model: nn.Module, image: Tensor = IMAGE) -> tuple[Captured, dict[str, Block]]:
    captured = capture(model, image)
    return captured, {b.name: b for b in find_blocks(captured, analyse(captured))}


def test_what_is_found_and_why_not() -> None:
    torch.manual_seed(0)
    _, blocks = found(settle(NETS["residual"]()))
    assert list(blocks) == ["a1.0", "b1.0", "c1.0"]
    assert blocks["a1.0"].reason is None
    assert blocks["a1.0"].groups == ("a1.0",)
    assert set(blocks["b1.0"].parameters) == {
        f"{path}.{name}"
        for path, names in (("b1.0", "weight"), ("b1.1", "bn"), ("b2.0", "weight bias"), ("b2.1", "bn"))
        for name in names.replace("bn", "weight bias running_mean running_var").split()
    }
    assert blocks["c1.0"].reason == "its shortcut is a projection (shortcut), not an identity"
    _, blocks = found(settle(Stack()))
    assert [(b.name, b.reason is None) for b in blocks.values()] == [
        ("layers.0", True),
        ("layers.1", False),
        ("layers.2", True),
        ("layers.3", True),
    ]
    _, blocks = found(Text(), torch.randn(2, 7, 5))
    assert list(blocks) == ["blocks.0", "blocks.0#2", "blocks.1", "blocks.1#2"]  # not the position
    for name in ("plain", "concat", "gate", "depthwise"):
        assert not found(NETS[name]())[1]


class Odd(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.kind == "pool":
            return functional.avg_pool2d(x, 2) + functional.max_pool2d(self.b(self.a(x)), 2)
        if self.kind == "scaled":
            return torch.add(self.a(x), x, alpha=0.5)
        if self.kind == "repeated":
            s = x.mean((2, 3), keepdim=True)
            return s + self.a(s * x)
        if self.kind == "parallel":
            return self.a(x) + self.b(x)
        y = self.a(x)
        return x + y if self.kind == "plain" else (x + y) * y


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        ("plain", [None]),
        ("pool", ["not an identity: avg_pool2d"]),
        ("scaled", ["scaled by 0.5"]),
        ("repeated", ["not of the shape"]),
        ("parallel", []),
        ("used again", []),
    ],
)
def test_odd_sums(kind: str, reasons: list[str | None]) -> None:
    _, blocks = found(Odd(kind))
    assert len(blocks) == len(reasons)
    for block, reason in zip(blocks.values(), reasons, strict=True):
        assert (block.reason is None) if reason is None else (reason in str(block.reason))


def _zero_branches(model: nn.Module, paths: list[str]) -> nn.Module:
    """Independent of the graph: the last convolution and BatchNorm of these blocks give zero."""
    twin = copy.deepcopy(model).eval()
    for path in paths:
        norm = twin.get_submodule(f"{path}.b.1")
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
    return twin


@pytest.mark.parametrize(
    ("names", "is_module"),
    [
        (["layers.0"], True),
        (["layers.3"], True),
        (["layers.0", "layers.3"], True),
        (["layers.2"], False),  # a ReLU stays behind a tensor that may be negative
        (["layers.0", "layers.2", "layers.3"], False),
    ],
)
def test_removed_from_the_users_module(names: list[str], is_module: bool) -> None:
    torch.manual_seed(0)
    model = settle(Stack())
    captured, blocks = found(model)
    chosen = [blocks[name] for name in names]
    smaller, reason, error = remove_blocks(captured, chosen)
    assert error <= 1e-6
    assert isinstance(smaller, Stack) == is_module == (reason is None)
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        wanted = _zero_branches(model, names)(x)
        torch.testing.assert_close(smaller.eval()(x), wanted)
        torch.testing.assert_close(zeroed_original(captured, chosen)(x), wanted)
        assert not torch.allclose(model.eval()(x), wanted, atol=1e-3)
    gone = {p for block in chosen for p in block.parameters}
    assert not gone & {n for n, _ in [*smaller.named_parameters(), *smaller.named_buffers()]}
    smaller.train()
    smaller(x).sum().backward()
    assert all(p.grad is not None for p in smaller.parameters())


def test_one_of_two_branches_of_a_module() -> None:
    torch.manual_seed(0)
    captured, blocks = found(Text(), torch.randn(2, 7, 5))
    graph, reason, error = remove_blocks(captured, [blocks["blocks.0#2"], blocks["blocks.1"]])
    assert isinstance(graph, fx.GraphModule)
    assert reason is not None
    assert "does more than block" in reason
    assert error <= 1e-6
    names = {n for n, _ in graph.named_parameters()}
    assert "blocks.0.mix.weight" in names
    assert not names & {"blocks.0.up.weight", "blocks.1.mix.weight", "blocks.1.first.weight"}
    both, reason, _ = remove_blocks(captured, [blocks["blocks.1"], blocks["blocks.1#2"]])
    assert reason is None
    assert isinstance(both.get_submodule("blocks.1"), nn.Identity)


@pytest.mark.parametrize("names", [["layers.0"], ["layers.2"]])
def test_channels_are_pruned_afterwards(names: list[str]) -> None:
    torch.manual_seed(0)
    trimmed = hwprune.remove_blocks(settle(Stack()), IMAGE, names)
    assert trimmed.removed == tuple(names)
    assert [line.name for line in trimmed.ledger if "projection" in line.reason] == ["layers.1"]
    captured = capture(trimmed.model, IMAGE)
    deps = analyse(captured)
    keep = random_keep(deps, 1)
    model, _ = prune_model(captured, deps, keep)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in trimmed.model.parameters())


def test_refusals() -> None:
    model = settle(Stack())
    with pytest.raises(PlanError, match=r"nearest blocks are layers"):
        hwprune.remove_blocks(model, IMAGE, ["layer.0"])
    with pytest.raises(PlanError, match="projection"):
        hwprune.remove_blocks(model, IMAGE, ["layers.1"])
    with pytest.raises(PlanError, match="no residual blocks"):
        hwprune.remove_blocks(NETS["plain"](), IMAGE, ["x"])


def test_torchvision() -> None:
    models = torchvision_models()
    image = torch.randn(1, 3, 32, 32)
    _, blocks = found(models.resnet18(num_classes=2), image)
    assert {name: block.reason is None for name, block in blocks.items()} == {
        f"layer{i}.{j}": i == 1 or j == 1 for i in (1, 2, 3, 4) for j in (0, 1)
    }
    _, blocks = found(models.mobilenet_v2(width_mult=0.1), image)
    assert all(b.reason is None and b.module == b.name for b in blocks.values())
    assert set(blocks) >= {f"features.{i}" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)}
