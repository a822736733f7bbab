"""Known answers of the gradient estimate, and of a search on a loss that has a formula."""

from __future__ import annotations

import numpy as np
import pytest

from hwprune.planner.joint.estimator import antithetic_gradient, normalised_step
from hwprune.planner.joint.mapping import Mapping
from hwprune.planner.joint.penalty import Penalty
from hwprune.planner.joint.rounding import round_feasibly
from hwprune.planner.joint.space import Space
from hwprune.solve.problem import Domain, Term
from tests.solve.instances import latency_problem


@pytest.mark.parametrize("seed", range(5))
def test_a_quadratic_is_differentiated_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    factor = rng.standard_normal((n, n))
    matrix, centre, v = factor @ factor.T, rng.standard_normal(n), rng.standard_normal(n)
    sigma = rng.uniform(0.001, 10.0, n)
    directions = np.sqrt(n) * np.eye(n)

    def loss(x: np.ndarray) -> float:
        return 0.5 * float((x - centre) @ matrix @ (x - centre)) + 7.0

    above, below = (np.array([loss(v + s * sigma * e) for e in directions]) for s in (1, -1))
    gradient = antithetic_gradient(above, below, directions, sigma)
    np.testing.assert_allclose(gradient, matrix @ (v - centre), rtol=1e-7, atol=1e-7)


def test_random_directions_are_right_on_average() -> None:
    rng = np.random.default_rng(0)
    slope, sigma = np.array([1.0, -2.0, 0.0]), np.array([0.1, 0.5, 0.02])
    directions = rng.standard_normal((200_000, 3))
    change = (directions * sigma) @ slope
    gradient = antithetic_gradient(5.0 + change, 5.0 - change, directions, sigma)
    # Standard error of a coordinate: about |sigma * slope| / sigma_i / sqrt(pairs).
    assert np.abs(gradient - slope)[:2].max() < 0.05
    assert abs(gradient[2]) < 0.3


def test_a_step_has_the_length_asked_for() -> None:
    v = np.array([0.5, 0.5])
    assert np.linalg.norm(normalised_step(v, np.array([3e9, -4e9]), 0.02) - v) == pytest.approx(0.02)
    assert normalised_step(v, np.zeros(2), 0.02).tolist() == v.tolist()


def test_a_search_ends_within_the_budget_and_in_the_order_of_lagrange() -> None:
    """Loss ``sum a_i / v_i``, latency ``sum w_i v_i``: the best v_i goes with ``sqrt(a_i / w_i)``."""
    loss_weight, price = np.array([4.0, 1.0, 1.0, 0.25]), np.array([1.0, 1.0, 4.0, 4.0])
    levels = tuple(range(2, 101))
    domains = tuple(Domain(f"g{i}", levels, tuple(map(float, levels))) for i in range(4))
    terms = tuple(
        Term(f"t{i}", (f"g{i}",), price[i] * np.array(levels, np.float64) / 100.0) for i in range(4)
    )
    budget = 0.4 * float(price.sum())
    problem = latency_problem(domains, terms, 0.0, budget)
    mapping = Mapping(Space.of(problem), problem, ())
    penalty = Penalty(mapping, [problem])
    rng, v = np.random.default_rng(1), np.full(4, 0.9)

    def loss(x: np.ndarray) -> float:
        return 0.02 * float((loss_weight / mapping.space.clip(x)).sum())

    for step in range(800):
        sigma = mapping.space.sigma(v, 0.05, 0.05)
        directions = rng.standard_normal((4, 4))
        above, below = (np.array([loss(v + s * sigma * e) for e in directions]) for s in (1, -1))
        gradient = antithetic_gradient(above, below, directions, sigma)
        gradient += 20.0 * penalty.gradient(v, sigma)
        v = mapping.space.clip(normalised_step(v, gradient, 0.02 if step < 400 else 0.005))

    found = round_feasibly(mapping, [problem], v)
    assert problem.usage(problem.limits[0], found.choice) <= budget
    assert penalty.share(mapping.at(v)) < 1.05
    # Lagrange: 2, 1, 0.5, 0.25 in proportion, of which the first is clipped to 1.
    expected = np.sqrt(loss_weight / price)
    assert (np.diff(v) < -0.03).all(), v
    rest = expected[1:] * (budget - price[0]) / float((expected * price)[1:].sum())
    np.testing.assert_allclose(v[1:], rest, atol=0.08)
    assert v[0] > 0.9
