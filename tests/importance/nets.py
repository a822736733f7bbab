"""A network and its groups in double precision, and a small transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwprune.capture import capture
from hwprune.capture.captured import Captured
from hwprune.dependency import Dependencies, analyse


def analysed(model: nn.Module, *example: Tensor) -> tuple[Captured, Dependencies]:
    """Captured in evaluation mode and in double precision; images of 8x8 by default."""
    model = model.double().eval()
    captured = capture(model, *(x.double() for x in example or (torch.randn(2, 3, 8, 8),)))
    return captured, analyse(captured)


def convolution(rows: list[list[float]]) -> nn.Conv2d:
    """A 1x1 convolution with these weights and no bias."""
    weight = torch.tensor(rows, dtype=torch.float64)
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
    layer.weight.data = weight[:, :, None, None]
    return layer


class Transformer(nn.Module):
    """Tokens of 6 features through a block with 3 heads of 4 and a hidden layer of 10."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.proj = nn.Linear(6, 12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.first, self.second = nn.LayerNorm(12), nn.LayerNorm(12)
        self.up, self.down, self.head = nn.Linear(12, 10), nn.Linear(10, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, _ = x.shape
        q, k, v = self.qkv(self.first(x)).reshape(b, n, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, 12))
        x = x + self.down(nn.functional.gelu(self.up(self.second(x))))
        return self.head(x.mean(1))


def transformer() -> tuple[Captured, Dependencies]:
    torch.manual_seed(0)
    return analysed(Transformer(), torch.randn(2, 5, 6))
