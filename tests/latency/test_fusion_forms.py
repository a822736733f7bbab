"""Forms of operators in real networks: layouts, constants, written-out activations, reshapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as f

from tests.latency.test_fusion import assert_equal_to_model, chains


class Around(nn.Module):
    """A function between two convolutions."""

    def __init__(
        self, function: Callable[[torch.Tensor], torch.Tensor], behind: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 8, 3, padding=1)
        self.function = function
        self.behind = behind or nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.behind(self.function(self.before(x)))


FORMS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], list[str]]] = {
    "numbers fold": (lambda x: ((x + 3) * 0.5 - 1) / 4, ["conv2d", "conv2d"]),
    "number minus": (lambda x: 1 - x, ["conv2d", "conv2d"]),
    "numbers behind": (lambda x: x.relu() * 2 + 1, ["conv2d+relu+affine+affine", "conv2d"]),
    "hardswish": (lambda x: x * f.relu6(x + 3) / 6, ["conv2d+affine+clamp+mul+affine", "conv2d"]),
    "hardswish inside": (lambda x: x * (f.relu6(x + 3) / 6), ["conv2d+affine+clamp+affine+mul", "conv2d"]),
    "swish": (lambda x: torch.sigmoid(x) * x, ["conv2d+sigmoid+mul", "conv2d"]),
    "square": (lambda x: x * x, ["conv2d+mul", "conv2d"]),
    "one bound": (lambda x: x.clamp(max=1.5).clamp(min=-1), ["conv2d+clamp+clamp", "conv2d"]),
    "quotient": (lambda x: x.relu() / (x.sigmoid() + 1), ["conv2d", "relu", "sigmoid+affine+div", "conv2d"]),
    "pad joins": (lambda x: f.pad(x, (1, 0, 2, 0)), ["conv2d", "conv2d"]),
    "pad alone": (lambda x: f.pad(x, (1, 0, 2, 0), value=1.0), ["conv2d", "pad2d", "conv2d"]),
    "nearest": (lambda x: f.interpolate(x, scale_factor=2), ["conv2d", "upsample_nearest", "conv2d"]),
    "softmax": (lambda x: x.softmax(1), ["conv2d", "softmax", "conv2d"]),
    "no-ops": (lambda x: f.dropout(x.contiguous().clone(), 0.5, False), ["conv2d", "conv2d"]),
    "slices": (
        lambda x: torch.cat([x[:, 3:], x[:, :3]], 1),
        ["conv2d", *["channel_slice"] * 2, "cat", "conv2d"],
    ),
    "split": (
        lambda x: torch.cat(torch.split(x, [5, 3], 1)[::-1], 1),
        ["conv2d", *["channel_slice"] * 2, "cat", "conv2d"],
    ),
    "shuffle": (
        lambda x: x.view(-1, 2, 4, 6, 6).transpose(1, 2).contiguous().view(-1, 8, 6, 6),
        ["conv2d", "channel_shuffle", "conv2d"],
    ),
    "linear gate": (
        lambda x: x * x.mean((2, 3)).sigmoid().view(-1, 8, 1, 1),
        ["conv2d", "mean_hw+sigmoid", "as_map", "mul", "conv2d"],
    ),
    "transposed": (lambda x: x.permute(0, 1, 3, 2), ["conv2d", "fallback", "conv2d"]),
    "rows of channels": (
        lambda x: x.permute(0, 2, 3, 1).reshape(-1, 6, 48).sin().reshape(-1, 6, 6, 8).permute(0, 3, 1, 2),
        ["conv2d", *["fallback"] * 5, "conv2d"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    function, expected = FORMS[name]
    fused = assert_equal_to_model(Around(function), torch.randn(2, 3, 6, 6))
    assert chains(fused) == expected


LAYERS: dict[str, tuple[nn.Module, list[str]]] = {
    "transposed convolution": (nn.ConvTranspose2d(8, 5, 3, 2, 1, 1, bias=False), ["spread+conv2d"]),
    "transposed, dilated": (nn.ConvTranspose2d(8, 5, 2, 2, dilation=2), ["spread+conv2d"]),
    "transposed with norm": (
        nn.Sequential(nn.ConvTranspose2d(8, 5, 2, 2), nn.BatchNorm2d(5), nn.ReLU()),
        ["spread+conv2d+relu"],
    ),
    "multiplier": (nn.Conv2d(8, 16, 3, groups=8), ["conv2d"]),
    "same": (nn.Conv2d(8, 4, 4, padding="same"), ["conv2d"]),
    "pixel shuffle": (nn.PixelShuffle(2), ["pixel_shuffle"]),
    "group norm": (nn.GroupNorm(2, 8), ["fallback"]),
    "pool to 3x4": (nn.AdaptiveAvgPool2d((3, 4)), ["adaptive_avg_pool2d"]),
    "ceil": (nn.AvgPool2d(4, 3, 1, ceil_mode=True), ["avg_pool2d"]),
    "head": (
        nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 5), nn.Softmax(-1)
        ),
        ["mean_hw", "flatten", "layer_norm", "linear", "softmax"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    layer, expected = LAYERS[name]
    fused = assert_equal_to_model(Around(lambda x: x, layer), torch.randn(2, 3, 6, 6))
    assert chains(fused) == ["conv2d", *expected]


class LastBlock(nn.Module):
    """A ConvNeXt block: channels-last inside, layer scale, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.wide, self.thin = nn.LayerNorm(8), nn.Linear(8, 20), nn.Linear(20, 8)
        self.scale = nn.Parameter(torch.randn(8, 1, 1))
        self.last = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.thin(f.gelu(self.wide(y)) * 1.5)
        x = self.scale * y.permute(0, 3, 1, 2) + x
        return self.last(x.permute(0, 2, 3, 1)).mean((1, 2))


def test_channels_last_moves_nothing() -> None:
    fused = assert_equal_to_model(LastBlock(), torch.randn(2, 3, 12, 8))
    assert [c for c in chains(fused) if "fallback" in c] == []
    assert chains(fused)[-3:] == ["conv2d+add", "layer_norm", "mean_hw"]


class Shuffled(nn.Module):
    """Concatenation, shuffle and halves, as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = f.channel_shuffle(torch.cat([self.a(x), self.b(x)], 1), 3)
        one, two = y.chunk(2, 1)
        return self.c(two), one


def test_shuffle_joins_the_slices() -> None:
    fused = assert_equal_to_model(Shuffled(), torch.randn(2, 3, 4, 4))
    assert chains(fused).count("cat+channel_shuffle+channel_slice") == 2
