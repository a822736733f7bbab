"""Known answers of the residual."""

from __future__ import annotations

import pytest

from hwprune.latency.predict import KernelSum
from hwprune.planner.residual import SPREAD, Residual


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


def network(ns: float, megabytes: float) -> KernelSum:
    return KernelSum(ns, 0.0, 50, 1e6 * megabytes, 0.0)


def test_calls_kernels_and_bytes_are_told_apart():
    sums = [network(20e6, 40.0), network(10e6, 30.0), network(5e6, 2.0), network(1e6, 0.1), network(3e6, 9.0)]
    truth = [60e3 + 1.1 * s.ns + 0.025 * s.streamed_bytes for s in sums]
    residual = Residual.fit(sums, truth)
    assert residual.factor == pytest.approx(1.1, rel=0.01)
    assert residual.byte_ns == pytest.approx(0.025, rel=0.1)
    assert residual.offset_ns == pytest.approx(60e3, rel=0.15)
    for found, ns in zip(sums, truth, strict=True):
        assert residual.latency_ns(found.ns, found.streamed_bytes) == pytest.approx(ns, rel=0.01)
    assert residual.spread < SPREAD, "exact networks make it surer than it was"


def test_the_spread_is_what_calibration_shows():
    sums = [network(n * 1e6, n) for n in range(1, 13)]
    noisy = [1.1 * s.ns * (1.05 if n % 2 else 0.95) for n, s in enumerate(sums)]
    assert 0.04 < Residual.fit(sums, noisy).spread < 0.06


def test_one_network_gives_its_factor_nearly():
    residual = Residual.fit([network(10e6, 1.0)], [12e6])
    assert residual.latency_ns(10e6, 1e6) == pytest.approx(12e6, rel=0.001)
    assert residual.factor == pytest.approx(1.2, rel=0.02)


def test_small_networks_may_take_less_than_their_kernels():
    sums = [network(n * 1e6, 0.0) for n in (20, 10, 5, 2, 1)]
    residual = Residual.fit(sums, [1.1 * s.ns - 150e3 for s in sums])
    assert residual.offset_ns == pytest.approx(-150e3, rel=0.1)
    assert residual.latency_ns(1e6) == pytest.approx(0.95e6, rel=0.01)
    assert residual.latency_ns(1e5) == 0.5e5, "but never nothing"
