"""Known answers of the residual."""

from __future__ import annotations

import pytest

from hwprune.planner.residual import Residual


def test_the_dense_network_alone_gives_a_factor():
    residual = Residual.from_dense(100.0, 120.0)
    assert (residual.offset_ns, residual.factor) == (0.0, 1.2)
    assert residual.latency_ns(50.0) == pytest.approx(60.0)


def test_two_networks_give_the_line_through_both():
    residual = Residual.from_dense(100.0, 120.0).with_point(50.0, 70.0)
    assert (residual.offset_ns, residual.factor) == (20.0, 1.0)
    assert residual.latency_ns(100.0) == 120.0
    assert residual.latency_ns(50.0) == 70.0
    assert residual.latency_ns(10.0) == 30.0


@pytest.mark.parametrize(
    ("sum_ns", "measured_ns", "why"),
    [
        (90.0, 90.0, "slope 3"),
        (50.0, 100.0, "slope 0.4"),
        (50.0, 50.0, "slope 1.4 but an offset below zero"),
        (100.0, 130.0, "the same sum twice: no line"),
    ],
)
def test_an_implausible_line_leaves_the_new_points_factor(sum_ns: float, measured_ns: float, why: str):
    residual = Residual.from_dense(100.0, 120.0).with_point(sum_ns, measured_ns)
    assert residual.offset_ns == 0.0, why
    assert residual.factor == pytest.approx(measured_ns / sum_ns), why


def test_later_points_are_joined_to_the_dense_network():
    residual = Residual.from_dense(100.0, 100.0).with_point(60.0, 66.0).with_point(50.0, 55.0)
    assert residual.points == ((100.0, 100.0), (60.0, 66.0), (50.0, 55.0))
    assert residual.factor == pytest.approx(0.9)
    assert residual.latency_ns(50.0) == pytest.approx(55.0)
    assert residual.latency_ns(100.0) == pytest.approx(100.0)
