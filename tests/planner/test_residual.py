"""Known answers of the residual."""

from __future__ import annotations

import pytest

from hwprune.latency.predict import KernelSum
from hwprune.planner.residual import SPREAD, Residual


def network(ns: float, megabytes: float) -> KernelSum:
    return KernelSum(ns, 0.0, 50, 1e6 * megabytes, 0.0)


def test_calls_kernels_and_bytes_are_told_apart():
    sums = [network(20e6, 40.0), network(10e6, 30.0), network(5e6, 2.0), network(1e6, 0.1), network(3e6, 9.0)]
    truth = [60e3 + 1.1 * s.ns + 0.025 * s.streamed_bytes for s in sums]
    residual = Residual.fit(sums, truth)
    assert residual.factor == pytest.approx(1.1, rel=0.01)
    assert residual.byte_ns == pytest.approx(0.025, rel=0.1)
    assert 50 * residual.launch_ns == pytest.approx(60e3, rel=0.15)
    for found, ns in zip(sums, truth, strict=True):
        assert residual.latency_ns(found) == pytest.approx(ns, rel=0.01)
    assert residual.spread < SPREAD, "exact networks make it surer than it was"


def test_the_spread_is_what_calibration_shows():
    sums = [network(n * 1e6, n) for n in range(1, 13)]
    noisy = [1.1 * s.ns * (1.05 if n % 2 else 0.95) for n, s in enumerate(sums)]
    assert 0.04 < Residual.fit(sums, noisy).spread < 0.06


def test_one_network_gives_its_factor_nearly():
    residual = Residual.fit([network(10e6, 1.0)], [12e6])
    assert residual.latency_ns(network(10e6, 1.0)) == pytest.approx(12e6, rel=0.001)
    assert residual.factor == pytest.approx(1.2, rel=0.02)


def test_small_networks_may_take_less_than_their_kernels():
    sums = [network(n * 1e6, 0.0) for n in (20, 10, 5, 2, 1)]
    residual = Residual.fit(sums, [1.1 * s.ns - 150e3 for s in sums])
    assert 50 * residual.launch_ns == pytest.approx(-150e3, rel=0.1)
    assert residual.latency_ns(network(1e6, 0.0)) == pytest.approx(0.95e6, rel=0.01)
    assert residual.latency_ns(network(1e5, 0.0)) == 0.5e5, "but never nothing"


MS = 1e6


def fitted(*points: tuple[float, float]) -> Residual:
    """Corrected for (sum, measured) pairs in milliseconds."""
    sums = [network(ms * MS, 0.0) for ms, _ in points]
    return Residual.fit(sums, [ms * MS for _, ms in points]).through_last()


def test_the_last_network_and_the_dense_one_lie_on_a_line():
    residual = fitted((100.0, 120.0), (50.0, 70.0))
    for sum_ms, measured_ms in ((100.0, 120.0), (50.0, 70.0), (10.0, 30.0)):
        assert residual.latency_ns(network(sum_ms * MS, 0.0)) == pytest.approx(measured_ms * MS, rel=1e-6)


@pytest.mark.parametrize(
    ("sum_ms", "measured_ms", "why"),
    [
        (90.0, 90.0, "slope 3"),
        (50.0, 100.0, "slope 0.4"),
        (50.0, 50.0, "slope 1.4 but less than nothing for no kernels"),
        (100.0, 130.0, "the same sum twice: no line"),
    ],
)
def test_an_implausible_line_scales_everything(sum_ms: float, measured_ms: float, why: str):
    residual = fitted((100.0, 120.0), (sum_ms, measured_ms))
    assert residual.shift_ns == 0.0, why
    assert residual.latency_ns(network(sum_ms * MS, 0.0)) == pytest.approx(measured_ms * MS, rel=1e-9), why
    assert residual.factor == pytest.approx(measured_ms / sum_ms, rel=0.01), why


def test_of_several_networks_the_last_is_met():
    """The others count for what a byte and a launch cost, the last for where to ask next."""
    points = ((100.0, 100.0), (60.0, 66.0), (50.0, 55.0))
    residual = fitted(*points)
    assert residual.points == tuple((network(s * MS, 0.0), m * MS) for s, m in points)
    assert residual.factor == pytest.approx(0.9)
    assert residual.latency_ns(network(50.0 * MS, 0.0)) == pytest.approx(55.0 * MS)
    assert residual.latency_ns(network(100.0 * MS, 0.0)) == pytest.approx(100.0 * MS)


def test_bytes_of_weights_explain_what_the_sum_does_not():
    """Two networks of one sum: the one that streams 40 MB takes 1 ms longer, so a third does half of that."""
    sums = [network(20 * MS, 60.0), network(10 * MS, 40.0), network(10 * MS, 0.0)]
    residual = Residual.fit(sums, [21.5 * MS, 11.0 * MS, 10.0 * MS])
    half = residual.latency_ns(network(10 * MS, 20.0))
    assert half == pytest.approx(10.5 * MS, rel=0.005)


def test_networks_with_fewer_kernels_pay_for_fewer_launches():
    residual = Residual(launch_ns=2000.0, factor=1.0)
    few, many = KernelSum(1e6, 0.0, 10, 0.0, 0.0), KernelSum(1e6, 0.0, 50, 0.0, 0.0)
    assert residual.latency_ns(many) - residual.latency_ns(few) == pytest.approx(80e3)
