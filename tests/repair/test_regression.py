"""Known answers of ridge regression and of factors per channel, in double precision."""

from __future__ import annotations

import pytest
import torch

from hwprune.importance.gram import Gram
from hwprune.importance.rows import Rows
from hwprune.repair.regression import Fit, Ridge, error_of, fit_rows, fit_scales, fit_sums

CHANNELS, KERNEL, OUTPUTS, ROWS = 5, 4, 3, 200
NONE = Ridge(0.0)


def _problem(groups: int = 1, rows: int = ROWS) -> tuple[Rows, torch.Tensor, torch.Tensor]:
    """Noisy targets, and a weight and bias that have nothing to do with them."""
    g = torch.Generator().manual_seed(groups)
    x = torch.randn(rows, groups, CHANNELS * KERNEL, generator=g, dtype=torch.float64) + 0.5
    y = torch.randn(rows, groups, OUTPUTS, generator=g, dtype=torch.float64) + x[:, :, :OUTPUTS]
    weight = torch.randn(groups, OUTPUTS, CHANNELS * KERNEL, generator=g, dtype=torch.float64)
    return Rows(x, y), weight, torch.randn(groups, OUTPUTS, generator=g, dtype=torch.float64)


def _gram(rows: Rows) -> Gram:
    gram = Gram()
    gram.add(rows)
    return gram


def _error(rows: Rows, weight: torch.Tensor, bias: torch.Tensor) -> float:
    missing = rows.y - torch.einsum("ngd,god->ngo", rows.x, weight) - bias
    return float(missing.square().sum() / (rows.y - rows.y.mean(0)).square().sum())


def _fits(rows: Rows, weight: torch.Tensor, bias: torch.Tensor, ridge: Ridge) -> tuple[Fit, Fit]:
    return fit_sums(_gram(rows), weight, bias, ridge), fit_rows(rows, weight, bias, ridge)


@pytest.mark.parametrize("way", [0, 1])
def test_a_duplicate_goes_into_the_weight_of_its_twin(way: int) -> None:
    """Channel 4 equals channel 1; without it, channel 1 reads for both and nothing else changes."""
    rows, weight, bias = _problem()
    x = rows.x.unflatten(2, (CHANNELS, KERNEL)).clone()
    x[:, :, 4] = x[:, :, 1]
    y = torch.einsum("ngd,god->ngo", x.flatten(2), weight) + bias
    w = weight.unflatten(2, (CHANNELS, KERNEL))
    fit = _fits(Rows(x[:, :, :4].flatten(2), y), w[:, :, :4].flatten(2), bias, NONE)[way]
    expected = w[:, :, :4].clone()
    expected[:, :, 1] += w[:, :, 4]
    assert torch.allclose(fit.weight, expected.flatten(2), atol=1e-9)
    assert torch.allclose(fit.bias, bias, atol=1e-9)
    assert fit.after < 1e-12 < 0.1 < fit.before


@pytest.mark.parametrize("way", [0, 1])
def test_with_every_channel_left_the_weight_stays(way: int) -> None:
    rows, weight, bias = _problem(groups=2)
    y = torch.einsum("ngd,god->ngo", rows.x, weight) + bias
    fit = _fits(Rows(rows.x, y), weight, bias, NONE)[way]
    assert torch.allclose(fit.weight, weight, atol=1e-9) and torch.allclose(fit.bias, bias, atol=1e-9)
    assert fit.before < 1e-12 and fit.after < 1e-12


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("towards_zero", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_both_ways_find_where_the_gradient_vanishes(groups: int, towards_zero: bool, intercept: bool) -> None:
    rows, weight, bias = _problem(groups)
    ridge = Ridge(0.3, towards_zero, intercept)
    for fit in _fits(rows, weight, bias, ridge):
        x, y = rows.x, rows.y
        if intercept:
            x, y = x - x.mean(0), y - y.mean(0)
            shift = rows.y.mean(0) - torch.einsum("god,gd->go", fit.weight, rows.x.mean(0))
            assert torch.allclose(fit.bias, shift)
        else:
            assert torch.equal(fit.bias, bias)
            y = y - bias
        missing = y - torch.einsum("ngd,god->ngo", x, fit.weight)
        penalty = 0.3 * x.square().sum((0, 2)) / x.shape[2]
        pull = fit.weight if towards_zero else fit.weight - weight
        gradient = torch.einsum("ngo,ngd->god", missing, x) - penalty[:, None, None] * pull
        assert gradient.abs().max() < 1e-8
        assert fit.before == pytest.approx(_error(rows, weight, bias), rel=1e-9)
        assert fit.after == pytest.approx(_error(rows, fit.weight, fit.bias), rel=1e-9)


@pytest.mark.parametrize("way", [0, 1])
def test_ridge_limits(way: int) -> None:
    rows, weight, bias = _problem()
    nothing = _fits(rows, weight, bias, Ridge(1e12))[way]
    assert torch.allclose(nothing.weight, weight, atol=1e-9)
    zero = _fits(rows, weight, bias, Ridge(1e12, towards_zero=True))[way]
    assert zero.weight.abs().max() < 1e-9
    assert torch.allclose(zero.bias, rows.y.mean(0)) and zero.after == pytest.approx(1.0)
    plain = _fits(rows, weight, bias, NONE)[way]
    design = torch.cat([rows.x[:, 0], torch.ones(ROWS, 1)], 1)
    direct = torch.linalg.lstsq(design, rows.y[:, 0]).solution
    assert torch.allclose(plain.weight[0], direct[:-1].T, atol=1e-9)
    assert torch.allclose(plain.bias[0], direct[-1], atol=1e-9)
    errors = [_fits(rows, weight, bias, Ridge(s))[way].after for s in (0.0, 1e-3, 1e-1, 10.0)]
    assert errors == sorted(errors)


@pytest.mark.parametrize("way", [0, 1])
def test_what_the_data_do_not_determine_changes_as_little_as_possible(way: int) -> None:
    """More weights than rows, or a column that is never anything but zero: no penalty is needed."""
    rows, weight, bias = _problem(rows=8)
    fit = _fits(rows, weight, bias, NONE)[way]
    assert fit.after < 1e-15
    x = rows.x[:, 0] - rows.x[:, 0].mean(0)
    y = rows.y[:, 0] - rows.y[:, 0].mean(0)
    change = torch.linalg.pinv(x) @ (y - x @ weight[0].T)
    assert torch.allclose(fit.weight[0] - weight[0], change.T, atol=1e-7)


@pytest.mark.parametrize("way", [0, 1])
def test_a_column_without_values_keeps_its_weight(way: int) -> None:
    rows, weight, bias = _problem()
    x = rows.x.clone()
    x[:, :, 7] = 0
    for ridge in (NONE, Ridge(1e-3)):
        fit = _fits(Rows(x, rows.y), weight, bias, ridge)[way]
        assert torch.allclose(fit.weight[:, :, 7], weight[:, :, 7])
        assert bool(torch.isfinite(fit.weight).all()) and fit.after < fit.before


@pytest.mark.parametrize("way", [0, 1])
def test_a_constant_that_went_comes_back_as_bias(way: int) -> None:
    rows, weight, bias = _problem()
    y = torch.einsum("ngd,god->ngo", rows.x, weight) + bias + torch.tensor([3.0, -1.0, 0.5])
    fit = _fits(Rows(rows.x, y), weight, bias, Ridge(1e-3))[way]
    assert torch.allclose(fit.bias, bias + torch.tensor([3.0, -1.0, 0.5]), atol=1e-8)
    assert torch.allclose(fit.weight, weight, atol=1e-8)


@pytest.mark.parametrize("groups", [1, 2])
def test_factors_are_those_of_the_regression_on_contributions(groups: int) -> None:
    rows, weight, bias = _problem(groups)
    fit = fit_scales(_gram(rows), weight, bias, KERNEL, NONE)
    split = rows.x.unflatten(2, (CHANNELS, KERNEL)), weight.unflatten(2, (CHANNELS, KERNEL))
    z = torch.einsum("ngck,gock->ngoc", *split)
    for g in range(groups):
        direct = torch.linalg.lstsq(
            z[:, g].reshape(-1, CHANNELS), (rows.y[:, g] - bias[g]).reshape(-1, 1)
        ).solution
        expected = weight[g] * direct[:, 0].repeat_interleave(KERNEL)
        assert torch.allclose(fit.weight[g], expected, atol=1e-9)
    assert torch.equal(fit.bias, bias)
    full = fit_sums(_gram(rows), weight, bias, NONE)
    assert full.after <= fit.after <= fit.before
    assert fit.after == pytest.approx(_error(rows, fit.weight, fit.bias), rel=1e-9)


def test_of_two_equal_contributions_the_one_that_is_left_counts_twice() -> None:
    rows, weight, bias = _problem()
    x = rows.x.unflatten(2, (CHANNELS, KERNEL)).clone()
    w = weight.unflatten(2, (CHANNELS, KERNEL)).clone()
    x[:, :, 4], w[:, :, 4] = x[:, :, 0], w[:, :, 0]
    y = torch.einsum("ngck,gock->ngo", x, w) + bias
    fit = fit_scales(_gram(Rows(x[:, :, :4].flatten(2), y)), w[:, :, :4].flatten(2), bias, KERNEL, NONE)
    factors = (fit.weight / w[:, :, :4].flatten(2)).unflatten(2, (4, KERNEL))
    expected = torch.tensor([2.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert torch.allclose(factors, expected[None, None, :, None].expand_as(factors), atol=1e-9)
    assert fit.after < 1e-12


def test_factors_stay_near_one_where_the_ridge_is_strong() -> None:
    rows, weight, bias = _problem()
    assert torch.allclose(fit_scales(_gram(rows), weight, bias, KERNEL, Ridge(1e12)).weight, weight)


def test_error_of_a_layer_from_sums() -> None:
    rows, weight, bias = _problem(groups=2)
    assert error_of(_gram(rows), weight, bias) == pytest.approx(_error(rows, weight, bias), rel=1e-9)
