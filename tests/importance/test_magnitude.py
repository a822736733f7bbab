"""Filter norms and BatchNorm scales of hand-set weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from hwprune.capture import capture
from hwprune.capture.captured import Captured
from hwprune.dependency import Dependencies, analyse
from hwprune.errors import CriterionError
from hwprune.importance import score
from tests.nets import Grouped, Residual, settle


def _analysed(model: nn.Module, size: int = 8) -> tuple[Captured, Dependencies]:
    captured = capture(model.eval(), torch.randn(2, 3, size, size))
    return captured, analyse(captured)


class _Two(nn.Module):
    """Two producers into one sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
        self.out = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[3.0, -4, 0], [0, 0, 0], [0, 0, -2]]).view(3, 3, 1, 1))
            self.b.weight.copy_(torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]]).view(3, 3, 1, 1) * 100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.a(x) + self.b(x))


def test_norms_of_coupled_producers_are_summed_after_division_by_their_means() -> None:
    captured, deps = _analysed(_Two())
    (group,) = deps.groups
    # a: L1 (7, 0, 2) mean 3, L2 (5, 0, 2) mean 7/3; b: constant, whatever its scale.
    l1, l2 = score(captured, deps, "l1")[group.name], score(captured, deps, "l2")[group.name]
    torch.testing.assert_close(l1, torch.tensor([7 / 3 + 1, 1, 2 / 3 + 1], dtype=torch.float64))
    torch.testing.assert_close(l2, torch.tensor([15 / 7 + 1, 1, 6 / 7 + 1], dtype=torch.float64))


def test_grouped_convolution_sums_over_the_channels_of_a_unit() -> None:
    captured, deps = _analysed(Grouped())
    group = deps.group("grouped.0")
    assert (group.size, group.channels_per_unit) == (4, 2)
    weight = captured.graph.get_parameter("grouped.0.weight").detach().double()
    per_channel = weight.abs().sum((1, 2, 3))
    expected = per_channel[:4] + per_channel[4:]
    torch.testing.assert_close(score(captured, deps, "l1")[group.name], expected / expected.mean())
    squares = (weight**2).sum((1, 2, 3))
    expected = (squares[:4] + squares[4:]).sqrt()
    torch.testing.assert_close(score(captured, deps, "l2")[group.name], expected / expected.mean())


def test_scaling_a_layer_changes_nothing_and_a_zero_filter_is_last() -> None:
    torch.manual_seed(0)
    model = Residual()
    captured, deps = _analysed(model)
    before = score(captured, deps, "l2")
    with torch.no_grad():
        model.a2[0].weight *= 17.0
        model.c1[0].weight[3] = 0.0
    after = score(*_analysed(model), "l2")
    torch.testing.assert_close(before["stem.0"], after["stem.0"], rtol=1e-6, atol=0)
    assert after["c1.0"].argmin() == 3 and after["c1.0"][3] == 0


def test_batchnorm_scales_are_summed_over_the_group() -> None:
    model = settle(Residual())
    captured, deps = _analysed(model)
    scores = score(captured, deps, "bn_scale")
    with torch.no_grad():
        stage = model.stem[1].weight.abs() + model.a2[1].weight.abs() + model.b2[1].weight.abs()
        model.b1[1].weight[2] *= -5
    torch.testing.assert_close(scores["stem.0"], stage.double())
    again = score(*_analysed(model), "bn_scale")
    assert again["b1.0"][2] == pytest.approx(5 * scores["b1.0"][2].item())


def test_groups_without_batchnorm_get_filter_norms_at_the_median(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 2.0, 3.0, 9.0]))
    captured, deps = _analysed(model)
    scores = score(captured, deps, "bn_scale")
    assert "groups without a BatchNorm: 3" in caplog.text
    norm = model[3].weight.detach().double().flatten(1).norm(dim=1)
    torch.testing.assert_close(scores["3"], norm * (2.0 / norm.median()))
    assert scores["0"].tolist() == [1.0, 2.0, 3.0, 9.0]


def test_without_any_batchnorm_or_producer_the_criterion_is_refused() -> None:
    captured, deps = _analysed(_Two())
    with pytest.raises(CriterionError, match="no group has one"):
        score(captured, deps, "bn_scale")
    (group,) = deps.groups
    members = tuple(m for m in group.members if m.role != "producer")
    with pytest.raises(CriterionError, match=f"group {group.name} has none"):
        score(captured, replace(deps, groups=(replace(group, members=members),)), "l1")
