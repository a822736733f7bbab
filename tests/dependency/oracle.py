"""Prune at random keep sets and compare with the masked original."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hwprune.capture import Captured, capture
from hwprune.dependency import Dependencies, analyse
from hwprune.surgery import cut_graph, prune_model, verify
from tests.nets import settle

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Keep = dict[str, list[int]]


class Body(nn.Module):
    """Two convolutions around a given function."""

    def __init__(self, body: Callable[[Tensor], Tensor], channels: int = 8, after: int | None = None) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, channels, 3, padding=1)
        self.two = nn.Conv2d(after or channels, 5, 1)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.body(self.one(x))).mean((2, 3))


def keeps(deps: Dependencies, seed: int) -> Keep:
    """At least one unit of every group, not all of them where there are several."""
    choose = random.Random(seed)
    return {
        g.name: sorted(choose.sample(range(g.size), choose.randint(1, max(1, g.size - 1))))
        for g in deps.groups
    }


def check(
    model: nn.Module, *inputs: Tensor, seeds: int = 4, module: bool | None = None
) -> tuple[Captured, Dependencies]:
    """Assert that random cuts of a model equal the masked original, and that a second cut works.

    ``module`` says whether the user's own class is expected to follow; None: either way.
    """
    torch.manual_seed(1)
    captured = capture(settle(model), inputs or (IMAGE,))
    deps = analyse(captured)
    for seed in range(seeds):
        keep = keeps(deps, seed)
        graph = cut_graph(captured, deps, keep)
        assert verify(captured, deps, keep, graph) < 1e-5
        if seed == 0:
            _, reason = prune_model(captured, deps, keep)
            assert module is None or module == (reason is None), reason
            again = Captured(graph, graph, captured.example_inputs)
            second = analyse(again)
            more = keeps(second, seed)
            assert verify(again, second, more, cut_graph(again, second, more)) < 1e-5
            outputs = torch.utils._pytree.tree_leaves(graph(*captured.example_inputs))
            sum(v.square().sum() for v in outputs).backward()
    return captured, deps


def sizes(deps: Dependencies) -> dict[str, int]:
    """Units of every group."""
    return {g.name: g.size for g in deps.groups}


def ledger(deps: Dependencies, name: str) -> str:
    """Reasons of one layer."""
    return "; ".join(line.reason for line in deps.ledger if line.name == name)
