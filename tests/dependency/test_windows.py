"""Window attention, patch merging and a whole small transformer for images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.dependency.exact import examine

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WIDTH, HEADS, WINDOW = 8, 2, 2


class _WindowAttention(nn.Module):
    """Shifted windows, a table of position biases per head, a mask for the shift."""

    def __init__(self, width: int, bias: str) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.width, self.bias = width, bias
        if bias == "table":
            self.table = nn.Parameter(torch.randn((2 * WINDOW - 1) ** 2, HEADS))
        else:
            self.mlp = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, HEADS, bias=False))
            self.scale = nn.Parameter(torch.rand(HEADS, 1, 1))
            self.register_buffer("places", torch.randn(1, 2 * WINDOW - 1, 2 * WINDOW - 1, 2))
        self.register_buffer("index", torch.randint(0, 9, (WINDOW**4,)))
        self.register_buffer("mask", torch.randn(4, WINDOW**2, WINDOW**2))

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        x = torch.roll(x, (-1, -1), (1, 2))
        rows, columns = h // WINDOW, w // WINDOW
        x = x.view(b, rows, WINDOW, columns, WINDOW, c).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(b * rows * columns, WINDOW**2, c)
        qkv = self.qkv(x).reshape(x.size(0), x.size(1), 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        if self.bias == "table":
            scores = (q * (c // HEADS) ** -0.5).matmul(k.transpose(-2, -1))
            bias = self.table[self.index]
        else:
            scores = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)
            scores = scores * torch.clamp(self.scale, max=2.0).exp()
            bias = 16 * torch.sigmoid(self.mlp(self.places).view(-1, HEADS)[self.index])
        scores = scores + bias.view(WINDOW**2, WINDOW**2, -1).permute(2, 0, 1).contiguous().unsqueeze(0)
        scores = scores.view(b, 4, HEADS, WINDOW**2, WINDOW**2) + self.mask.unsqueeze(1).unsqueeze(0)
        scores = functional.softmax(scores.view(-1, HEADS, WINDOW**2, WINDOW**2), dim=-1)
        x = self.proj(scores.matmul(v).transpose(1, 2).reshape(x.size(0), x.size(1), c))
        x = x.view(b, rows, columns, WINDOW, WINDOW, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return torch.roll(x, (1, 1), (1, 2))


class _Swin(nn.Module):
    def __init__(self, bias: str) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(4 * WIDTH)
        self.attention = _WindowAttention(WIDTH, bias)
        self.merge = nn.Linear(4 * WIDTH, 10, bias=False)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        x = x + self.attention(self.norm1(x))
        parts = [x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        return self.head(self.merge(self.norm2(torch.cat(parts, -1))).mean((1, 2)))


def test_shifted_windows_with_a_table_of_biases() -> None:
    _, deps = examine(_Swin("table"), IMAGE, {"patch": WIDTH, "attention.qkv": HEADS, "merge": 10})
    assert ("attention.table", 1) in {(m.param, m.dim) for m in deps.group("attention.qkv").members}
    assert deps.group("patch").statistics == ("layer_norm", "layer_norm_1")


def test_shifted_windows_with_computed_biases() -> None:
    expected = {"patch": WIDTH, "attention.qkv": HEADS, "attention.mlp.0": 6, "merge": 10}
    _, deps = examine(_Swin("mlp"), IMAGE, expected)
    members = {(m.param, m.dim) for m in deps.group("attention.qkv").members}
    assert {("attention.mlp.2.weight", 0), ("attention.scale", 0)} <= members
