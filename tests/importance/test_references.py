"""FPGM, LAMP and random order against hand-set filters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from hwprune.importance import score
from tests.importance.nets import analysed, convolution, transformer
from tests.nets import Grouped, Plain, settle


def _one(rows: list[list[float]], criterion: str) -> torch.Tensor:
    model = nn.Sequential(convolution(rows), convolution([[1.0] * len(rows)]))
    return score(*analysed(model, torch.randn(1, len(rows[0]), 4, 4)), criterion)["0"]


def test_the_filter_nearest_to_the_others_goes_first_whatever_its_norm() -> None:
    # On a line at 1, 2, 6, 100: mean distances 35, 104/3, 36, 289/3; mean norm 109/4.
    found = _one([[1.0, 0], [2, 0], [6, 0], [100, 0]], "fpgm") * (109 / 4)
    expected = [(1 + 5 + 99) / 3, (1 + 4 + 98) / 3, (5 + 4 + 94) / 3, (99 + 98 + 94) / 3]
    assert found.tolist() == pytest.approx(expected)
    # Far from the origin, identical filters are at distance zero, not at that of rounding errors.
    twins = _one([[1e8, 1.0], [1e8, 1.0], [1e8, 1.0]], "fpgm")
    assert twins.tolist() == [0.0, 0.0, 0.0]


def test_coupled_filters_are_concatenated_at_one_scale() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = convolution([[0.0, 3], [0, 3], [4, 0]])
            self.b = convolution([[70.0, 0], [0, 70], [0, 70]])
            self.out = convolution([[1.0, 1, 1]])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.a(x) + self.b(x))

    found = score(*analysed(Two(), torch.randn(1, 2, 4, 4)), "fpgm")["a"]
    a, b = 25 / (10 / 3) ** 2, 2.0  # squared distances, over the squared mean norms
    pairs = {(0, 1): b, (0, 2): a + b, (1, 2): a}
    expected = [sum(d**0.5 for p, d in pairs.items() if unit in p) / 2 for unit in range(3)]
    assert found.tolist() == pytest.approx(expected)


def test_units_of_several_channels_have_all_their_filters() -> None:
    model = settle(Grouped())
    captured, deps = analysed(model)
    weight = model.grouped[0].weight.detach().flatten(1)
    rows = torch.cat([weight[:4], weight[4:]], 1)
    expected = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1) / 3
    found = score(captured, deps, "fpgm")["grouped.0"]
    torch.testing.assert_close(found, expected / rows.norm(dim=1).mean())
    captured, deps = transformer()
    rows = captured.graph.get_parameter("qkv.weight").detach().reshape(3, 3, 48).transpose(0, 1).flatten(1)
    found = score(captured, deps, "fpgm")["qkv"]
    torch.testing.assert_close(found, torch.cdist(rows, rows).sum(1) / 2 / rows.norm(dim=1).mean())


def test_lamp_of_known_norms() -> None:
    # Squared norms 5, 1, 4, 4: over the sums of those not smaller.
    found = _one([[1.0, 2], [1, 0], [0, -2], [2, 0]], "lamp")
    assert found.tolist() == pytest.approx([1.0, 1 / 14, 4 / 13, 4 / 13])
    assert _one([[0.0, 0], [1, 0], [0, 0]], "lamp").tolist() == [0.0, 1.0, 0.0]
    assert _one([[0.0, 0], [0, 0]], "lamp").tolist() == [0.0, 0.0]


def test_lamp_of_coupled_producers_adds_shares_of_energy() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = convolution([[1.0, 0], [0, 3]]), convolution([[400.0, 300], [0, 500]])
            self.out = convolution([[1.0, 1]])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.a(x) + self.b(x))

    found = score(*analysed(Two(), torch.randn(1, 2, 4, 4)), "lamp")["a"]
    assert found.tolist() == pytest.approx([(0.1 + 0.5) / 2, 1.0])


def test_random_order_depends_on_seed_and_name_only() -> None:
    captured, deps = analysed(settle(Plain()))
    found = score(captured, deps, "random", seed=3)
    again = score(captured, replace(deps, groups=deps.groups[1:]), "random", seed=3)
    other = score(captured, deps, "random", seed=4)
    for name, value in again.items():
        assert value.tolist() == found[name].tolist() != other[name].tolist()
        assert bool(((value >= 0) & (value < 1)).all()) and len(value.unique()) == len(value)
