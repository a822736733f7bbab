"""Small networks, one for every construction that channel pruners are known to get wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(1))
Body = Callable[..., "Tensor | tuple[Tensor, ...]"]


class Net(nn.Module):
    """Layers by name, and a forward function given from outside."""

    def __init__(self, body: Body, **layers: nn.Module | Tensor) -> None:
        super().__init__()
        for name, layer in layers.items():
            if isinstance(layer, nn.Module):
                self.add_module(name, layer)
            elif isinstance(layer, nn.Parameter):
                self.register_parameter(name, layer)
            else:
                self.register_buffer(name, layer)
        self.body = body

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.body(self, *inputs)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # the layers


@dataclass(frozen=True)
class Case:
    """A network, the units of every group that must be found, and reasons the ledger must give."""

    make: Callable[[], nn.Module]
    groups: dict[str, int]
    inputs: tuple[Tensor, ...] = (IMAGE,)
    declined: dict[str, str] = field(default_factory=dict[str, str])


CASES: dict[str, Case] = {}


def case(
    groups: dict[str, int], *inputs: Tensor, declined: dict[str, str] | None = None
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register a network under the name of the function that makes it."""

    def register(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        CASES[make.__name__] = Case(make, groups, inputs or (IMAGE,), declined or {})
        return make

    return register


def stem(width: int = 8) -> nn.Conv2d:
    return nn.Conv2d(3, width, 3, padding=1)


def head(width: int) -> nn.Conv2d:
    return nn.Conv2d(width, 5, 1)
