"""Linear layers on tokens and windows are convolutions over maps of positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as f

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.latency.fused import FusedGraph
from hwprune.latency.fusion import fuse
from hwprune.latency.tokens import tokens_as_maps
from hwprune.surgery import cut_graph
from tests.latency.test_fusion import assert_equal_to_model, chains, fused_of
from tests.latency.test_fusion_families import random_keep
from tests.zoo import torchvision_models


def mlp(width: int = 16) -> nn.Sequential:
    norm = nn.LayerNorm(width)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.5, 0.5)
    return nn.Sequential(norm, nn.Linear(width, 40), nn.GELU(), nn.Dropout(), nn.Linear(40, width))


def own(fused: FusedGraph) -> list[str]:
    """Kernels of ours; moving data into and out of maps is left out."""
    return [c for c in chains(fused) if c != "fallback"]


def moved(fused: FusedGraph) -> int:
    return chains(fused).count("fallback")


class Shaped(nn.Module):
    """A residual block of two linear layers on whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(x)


@pytest.mark.parametrize("shape", [(1, 7, 16), (3, 5, 16), (7, 1, 16), (2, 3, 5, 16), (1, 2, 1, 3, 1, 2, 16)])
def test_layers_of_any_rank_are_packed(shape: tuple[int, ...]) -> None:
    fused = assert_equal_to_model(Shaped(), torch.randn(shape))
    assert own(fused) == ["layer_norm", "conv2d+gelu", "conv2d+add"]
    assert moved(fused) <= 4, "in and out once"


@pytest.mark.parametrize("shape", [(9, 16), (1, 3, 16)])
def test_rows_and_few_positions_stay_rows(shape: tuple[int, ...]) -> None:
    captured = capture(Shaped().eval(), (torch.randn(shape),))
    assert tokens_as_maps(captured.graph) is captured.graph


class Block(nn.Module):
    """A transformer's encoder layer with PyTorch's own attention."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = mlp(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(x)


def test_what_is_around_attention_is_one_region() -> None:
    fused = assert_equal_to_model(nn.Sequential(Block(), Block()), torch.randn(1, 6, 16))
    block = ["layer_norm", "conv2d", "conv2d+add", "layer_norm", "conv2d+gelu", "conv2d+add"]
    assert own(fused) == [*block, *block], "the transpositions of batch and tokens move nothing here"


def test_reshapes_are_joined() -> None:
    """Sizes that are written into one of them (the parts of an ``unflatten``) could not be cut."""
    graph = fused_of(Block().eval(), torch.randn(1, 6, 16)).graph.graph
    names = {str(n.target) for n in graph.nodes}
    assert "aten.unflatten.int" not in names
    assert "aten.unsqueeze.default" not in names
    reshapes = [n for n in graph.nodes if n.target is torch.ops.aten.reshape.default]
    assert not any(n.args[0] in reshapes for n in reshapes)


class Arithmetic(nn.Module):
    """Numbers, vectors and an own value per position, in and in front of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 8, bias=False)
        self.scale, self.shift = nn.Parameter(torch.randn(16)), nn.Parameter(torch.randn(1, 1, 16))
        self.places = nn.Parameter(torch.randn(1, 6, 16))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = self.first(x + self.places) * self.scale + self.shift
        b = (a * 0.5 + 1) * y.transpose(0, 1).sigmoid()
        return self.last(b), 1 / (2 + a.relu())


def test_arithmetic() -> None:
    fused = assert_equal_to_model(Arithmetic(), torch.randn(1, 6, 16), torch.randn(6, 1, 16))
    assert "conv2d" in own(fused)
    assert not any("linear" in s.spec.label() for s in fused.program().steps)


FORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean over tokens": lambda x: x.mean(1),
    "first token": lambda x: x[:, 0],
    "tokens joined": lambda x: torch.cat([x[:, 3:], x[:, :3]], 1),
    "tokens flattened": lambda x: x.flatten(1),
    "as a map": lambda x: x.transpose(1, 2).reshape(1, 16, 2, 3),
    "over tokens": lambda x: x.transpose(1, 2).softmax(-1),
    "as it is": lambda x: x,
    "two readers": lambda x: x.sin() + x.reshape(2, 3, 16).reshape(1, 6, 16).cos(),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_reads_a_region(name: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Shaped()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return FORMS[name](self.body(x))

    fused = assert_equal_to_model(Net(), torch.randn(1, 6, 16))
    assert [c for c in own(fused) if "conv2d" in c] == ["conv2d+gelu", "conv2d+add"]


def test_a_map_goes_in_and_out_without_a_copy() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.behind = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 4, 1)
            self.window, self.body = nn.Linear(16, 16), Shaped()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x).permute(0, 2, 3, 1)
            parts = self.window(x.reshape(1, 2, 2, 2, 2, 16).transpose(2, 3))
            x = self.body(x + parts.transpose(2, 3).reshape(1, 4, 4, 16))
            return self.behind(x.permute(0, 3, 1, 2))

    fused = assert_equal_to_model(Net(), torch.randn(1, 3, 9, 9))
    assert own(fused)[0] == "conv2d"
    assert own(fused)[-4:] == ["layer_norm", "conv2d+gelu", "conv2d+add", "conv2d"]


def transformers() -> dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]]:
    torchvision_models()
    from torchvision.models import swin_transformer as swin
    from torchvision.models.vision_transformer import VisionTransformer

    windows: dict[str, Any] = {
        "patch_size": [4, 4],
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 4],
        "window_size": [4, 4],
        "num_classes": 5,
    }
    second: dict[str, Any] = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    image = torch.randn(1, 3, 32, 32)
    return {
        "vit": lambda: (VisionTransformer(32, 8, 1, 4, 32, 64, num_classes=5), image),
        "swin": lambda: (swin.SwinTransformer(**windows), image),
        "swin_v2": lambda: (swin.SwinTransformer(**windows, **second), image),
        "batch": lambda: (Block(), torch.randn(3, 6, 16)),
    }


@pytest.mark.parametrize("name", ["vit", "swin", "swin_v2", "batch"])
def test_kernels_foretold_are_those_of_the_cut_network(name: str) -> None:
    torch.manual_seed(0)
    model, x = transformers()[name]()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    fused = assert_equal_to_model(model, x)
    model.float()
    captured = capture(model, (x,))
    deps = analyse(captured)
    fused = fuse(captured.graph)
    assert not any("aten.linear" in s.spec.label() for s in fused.program().steps)
    families = fused.families(deps.extents)
    assert [k.at(deps.dense_widths) for k in families] == [k.at({}) for k in fused.families()]
    keep = random_keep(deps, seed=0)
    widths = {group: len(kept) for group, kept in keep.items()}
    really = fuse(cut_graph(captured, deps, keep)).families()
    assert [k.name for k in families] == [k.name for k in really]
    for family, other in zip(families, really, strict=True):
        assert family.at(widths) == other.at({}), family.name


def test_activation_alone_is_no_reason() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return f.layer_norm(x, (16,)) + f.gelu(x)

    captured = capture(Net().eval(), (torch.randn(1, 6, 16),))
    assert tokens_as_maps(captured.graph) is captured.graph
