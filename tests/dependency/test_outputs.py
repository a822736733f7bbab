"""Outputs of the model are protected, unless they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hwprune
from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.errors import UsageError
from hwprune.surgery import cut_graph, load_pruned, prune_model, save_pruned, verify
from tests.dependency.exact import random_keep, settled, trained_step

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()


class Features(nn.Module):
    """Two maps, one of them the sum that the other is made of, and pooled values of a third."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.deep, self.last = nn.Conv2d(8, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.stem(x)
        low = x + self.side(x.relu())
        high = self.deep(low).relu()
        return low, high, self.last(high.mean((2, 3)))


def test_every_output_loses_the_channels_that_go() -> None:
    model = settled(Features())
    captured = capture(model, (IMAGE,))
    assert [g.name for g in analyse(captured).groups] == []
    deps = analyse(captured, prune_outputs=True)
    assert {g.name: g.size for g in deps.groups} == {"stem": 8, "deep": 6, "last": 4}
    dense = model(IMAGE)
    for seed in range(4):
        keep = random_keep(deps, seed)
        graph = cut_graph(captured, deps, keep)
        assert verify(captured, deps, keep, graph) < 1e-9
        trained_step(graph, (IMAGE,))
    only = cut_graph(captured, deps, {"last": [1, 3]})(IMAGE)
    torch.testing.assert_close(only[2], dense[2][:, [1, 3]])  # as if the class had returned fewer
    torch.testing.assert_close(only[0], dense[0])


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = settled(Features())
    captured = capture(model, (IMAGE,))
    deps = analyse(captured, prune_outputs=True)
    keep = random_keep(deps, 1)
    pruned = cut_graph(captured, deps, keep)
    save_pruned(tmp_path / "saved", pruned, captured, deps, keep)
    loaded = load_pruned(tmp_path / "saved", lambda: Features().double()).model
    torch.testing.assert_close(loaded(IMAGE), pruned.eval()(IMAGE), rtol=0, atol=0)


def test_the_class_follows_and_the_plan_remembers() -> None:
    model = settled(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3)))
    captured = capture(model, (IMAGE,))
    deps = analyse(captured, prune_outputs=True, include=["2"])
    pruned, reason = prune_model(captured, deps, {"2": list(range(8))})
    assert reason is None and pruned(IMAGE).shape[1] == 8


def test_planned_and_applied_again() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1)).eval()
    image = torch.randn(1, 3, 16, 16)
    pruned = hwprune.prune(model, image, latency="80%", prune_outputs=True, include=["2"], checks=0)
    assert pruned.plan.prune_outputs and pruned.model(image).shape[1] < 64
    again = hwprune.apply_plan(model, image, pruned.plan, include=["2"])
    torch.testing.assert_close(again.model(image), pruned.model(image))


def test_a_submodules_outputs_stay() -> None:
    with pytest.raises(UsageError, match="what the rest of the model reads"):
        hwprune.plan(nn.Sequential(nn.Conv2d(3, 8, 3)), IMAGE, submodule="0", prune_outputs=True)
