"""Networks on which derivatives are compared with what they must be, in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwprune.capture import capture
from hwprune.capture.captured import Captured
from hwprune.dependency import Dependencies, analyse
from tests.nets import NETS, settle


class Tokens(nn.Module):
    """A transformer block with LayerNorm first; tokens before the batch where ``first`` is False."""

    def __init__(self, *, first: bool = True) -> None:
        super().__init__()
        self.first = first
        self.embed = nn.Linear(6, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=first, norm_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if self.first:
            return self.head(self.block(x).mean(1))
        return self.head(self.block(x.transpose(0, 1)).mean(0))


class Perceptron(nn.Module):
    """Two layers with ``tanh`` or ReLU (or nothing) between them."""

    def __init__(self, hidden: int = 6, *, activation: str = "tanh", bias: bool = True) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, hidden, bias=bias)
        self.head = nn.Linear(hidden, 3, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.hidden(x)
        return self.head(x if self.activation == "none" else getattr(torch, self.activation)(x))


def opened(model: nn.Module, *shape: int) -> tuple[Captured, Dependencies]:
    """Captured in float64 with an example of this shape."""
    captured = capture(model.double().eval(), torch.randn(*shape, dtype=torch.float64))
    return captured, analyse(captured)


def network(name: str) -> tuple[Captured, Dependencies]:
    """One of the small networks, settled; ``tokens`` and ``tokens_first`` are transformers."""
    torch.manual_seed(0)
    if name in ("tokens", "tokens_first"):
        return opened(Tokens(first=name == "tokens"), 2, 5, 6)
    return opened(settle(NETS[name]()), 2, 3, 8, 8)


def perceptron(
    hidden: int = 6, *, activation: str = "tanh", bias: bool = True
) -> tuple[Captured, Dependencies]:
    """A perceptron of four inputs and three classes."""
    torch.manual_seed(1)
    return opened(Perceptron(hidden, activation=activation, bias=bias), 2, 4)


def labelled(captured: Captured, count: int = 4, seed: int = 0, classes: int = 3) -> tuple[Tensor, Tensor]:
    """A batch that fits the network."""
    generator = torch.Generator().manual_seed(seed)
    shape = captured.example_inputs[0].shape[1:]
    x = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (count,), generator=generator)
