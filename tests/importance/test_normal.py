"""Expectations of normally distributed values: known answers, and against other ways to take them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hwprune.importance.normal import absolute_mean, expected, relu_mean, relu_second_moment
from hwprune.importance.responses import KINKS

MEAN = torch.tensor([0.0, 1.0, -2.0, 3.0, -0.3, 7.0], dtype=torch.float64)
STD = torch.tensor([1.0, 2.0, 0.5, 0.1, 30.0, 1.5], dtype=torch.float64)


def _by_sums(function, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Midpoints of a very fine grid."""
    step = 1e-4
    t = torch.arange(-9.0 + step / 2, 9.0, step, dtype=torch.float64)
    density = torch.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    return torch.stack([(function(m + s * t) * density).sum() * step for m, s in zip(mean, std, strict=True)])


def test_known_answers_of_relu() -> None:
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert relu_mean(zero, one).item() == pytest.approx(0.398942, abs=1e-6)
    assert relu_mean(50 * one, one).item() == pytest.approx(50.0)
    assert relu_mean(-50 * one, one).item() == 0.0
    assert relu_mean(3 * one, zero).item() == 3.0 and relu_mean(-3 * one, zero).item() == 0.0
    assert absolute_mean(zero, one).item() == pytest.approx(math.sqrt(2 / math.pi))
    assert absolute_mean(-3 * one, zero).item() == 3.0
    assert relu_second_moment(zero, one).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("closed", "function"),
    [(relu_mean, F.relu), (absolute_mean, torch.abs), (relu_second_moment, lambda x: F.relu(x) ** 2)],
)
def test_closed_forms_against_quadrature_and_sums(closed, function) -> None:  # type: ignore[no-untyped-def]
    found = closed(MEAN, STD)
    torch.testing.assert_close(found, expected(function, MEAN, STD, (0.0,)), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(found, _by_sums(function, MEAN, STD), rtol=1e-6, atol=1e-8)


def test_monte_carlo_agrees() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 1.5 * torch.randn(400_000, generator=generator, dtype=torch.float64)
    mean, std = torch.tensor([0.5], dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64)
    assert F.relu(x).mean().item() == pytest.approx(relu_mean(mean, std).item(), rel=0.01)
    assert x.abs().mean().item() == pytest.approx(absolute_mean(mean, std).item(), rel=0.01)
    assert (F.relu(x) ** 2).mean().item() == pytest.approx(relu_second_moment(mean, std).item(), rel=0.01)
    silu = expected(lambda v: F.silu(v).abs(), mean, std, (0.0,))
    assert F.silu(x).abs().mean().item() == pytest.approx(silu.item(), rel=0.01)


@pytest.mark.parametrize("name", sorted(KINKS))
def test_the_kinks_of_every_activation_are_known(name: str) -> None:
    """With one missing, quadrature is off in the third digit where the distribution is wide."""
    function = torch.square if name == "square" else getattr(torch, name, None) or getattr(F, name)
    kinks = KINKS[name]
    for power in (lambda v: v, torch.abs, torch.square):
        found = expected(lambda x, p=power: p(function(x)), MEAN, STD, kinks)
        reference = _by_sums(lambda x, p=power: p(function(x)), MEAN, STD)
        torch.testing.assert_close(found, reference, rtol=1e-6, atol=1e-8)


def test_a_spread_of_zero_is_the_value_itself_even_on_a_kink() -> None:
    mean, std = torch.tensor([0.0, 2.0, -1.0], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(expected(F.silu, mean, std, (0.0,)), F.silu(mean))
