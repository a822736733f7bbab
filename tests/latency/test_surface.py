"""Costs between measured points: exact for what the trend can say, honest about the rest."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hwprune.latency.surface import Surface

GRID = np.array(list(itertools.product((16, 48, 96, 128), (16, 64, 128))), np.float64)


def product(places: np.ndarray) -> np.ndarray:
    return 50.0 + 2.0 * places[:, 0] + 3.0 * places[:, 1] + 0.1 * places[:, 0] * places[:, 1]


def test_the_trend_is_exact():
    surface = Surface(GRID, product(GRID))
    wanted = np.array([[32, 32], [112, 80], [16, 100]], np.float64)
    costs, deviations = surface.at(wanted)
    assert costs == pytest.approx(product(wanted))
    assert (deviations < 0.02 * costs).all()
    assert surface.error < 1e-6


def test_noise_is_seen_and_covers_the_truth():
    generator = np.random.default_rng(0)
    hits: list[bool] = []
    for _ in range(20):
        noise = np.exp(0.05 * generator.standard_normal(len(GRID)))
        surface = Surface(GRID, product(GRID) * noise)
        assert 0.01 < surface.error < 0.15
        wanted = generator.integers(1, 8, (10, 2)) * 16.0
        costs, deviations = surface.at(wanted)
        truth = product(wanted) * np.exp(0.05 * generator.standard_normal(len(wanted)))
        hits += (np.abs(costs - truth) < 1.96 * deviations).tolist()
    assert 0.75 < np.mean(hits) <= 1.0


def test_left_out_errors_are_those_of_leaving_out():
    """The closed form against really doing it, with the parameters that were chosen."""
    generator = np.random.default_rng(1)
    values = product(GRID) * np.exp(0.1 * generator.standard_normal(len(GRID)))
    surface = Surface(GRID, values)
    for i in (4, 7):
        rest = np.delete(np.arange(len(GRID)), i)
        cost = float(Surface(GRID[rest], values[rest]).at(GRID[i : i + 1])[0][0])
        assert surface.left_out_errors[i] == pytest.approx(1 - cost / values[i], abs=0.05)


def test_inside_is_between_measured_points():
    surface = Surface(GRID, product(GRID))
    assert surface.encloses((16, 16))
    assert surface.encloses((128, 100))
    assert not surface.encloses((129, 100))
    triangle = Surface(np.array([[1, 16], [4, 16], [4, 512]]), np.array([1.0, 2.0, 3.0]))
    assert triangle.encloses((4, 256))
    assert not triangle.encloses((1, 256))
    line = Surface(np.array([[3, 16], [3, 64]]), np.array([1.0, 4.0]))
    assert line.encloses((3, 32))
    assert not line.encloses((4, 32))


def test_one_point_and_no_coordinates():
    alone = Surface(np.array([[16, 32]]), np.array([7.0]))
    assert float(alone.at(np.array([[16, 32]]))[0][0]) == pytest.approx(7.0)
    assert alone.error == 0.2
    fixed = Surface(np.zeros((1, 0)), np.array([7.0]))
    assert fixed.encloses(())
    assert float(fixed.at(np.zeros((1, 0)))[0][0]) == pytest.approx(7.0)


@pytest.mark.parametrize("seed", range(6))
def test_costs_stay_within_what_was_measured(seed: int):
    """However wild the noise: a cost below nothing would make the solver pay for a kernel."""
    generator = np.random.default_rng(seed)
    values = product(GRID) * np.exp(2.0 * generator.standard_normal(len(GRID)))
    surface = Surface(GRID, values)
    wanted = np.array(list(itertools.product(range(16, 129, 8), range(16, 129, 8))), np.float64)
    costs, _ = surface.at(wanted)
    assert values.min() <= costs.min() <= costs.max() <= values.max()


@pytest.mark.parametrize("seed", [0, 4, 8, 11])
def test_costs_stay_positive_however_disturbed_the_measurements_were(seed: int):
    generator = np.random.default_rng(seed)
    every = np.array([[16.0], [32.0], [64.0], [128.0], [256.0], [512.0]])
    inner = generator.permutation(np.arange(1, 5))[:2]
    places = every[np.sort(np.concatenate([[0, 5], inner]))]
    values = places[:, 0] * np.exp(2.5 * generator.standard_normal(len(places)))
    costs, _ = Surface(places, values).at(every)
    assert (costs >= 0.3 * values.min() * (1 - 1e-9)).all()
