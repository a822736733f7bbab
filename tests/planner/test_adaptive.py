"""Adaptive sampling on a made-up device: where it measures, when it stops, what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from hwprune.latency.kernel import KernelSpec
from hwprune.latency.predict import LatencyModel
from hwprune.latency.table import LatencyTable
from hwprune.planner.adaptive import Sampler, spread_out
from tests.planner.fakes import CHAIN, DOMAINS, bilinear, row, sizes, table


class Table:
    """Measures kernels; every one takes ten seconds."""

    def __init__(self, cost: Callable[[KernelSpec], float], failing: str = "") -> None:
        self.cost, self.failing = cost, failing
        self.specs: dict[str, KernelSpec] = {}
        self.now = 0.0

    def __call__(self, specs: Sequence[KernelSpec]) -> LatencyTable:
        for spec in specs:
            self.now += 10.0 * (spec.digest() not in self.specs)
            self.specs[spec.digest()] = spec
        return self.table()

    def table(self) -> LatencyTable:
        return table([self._row(spec) for spec in self.specs.values()])

    def _row(self, spec: KernelSpec):
        failed = spec.digest() == self.failing
        return row(spec, 0.0 if failed else self.cost(spec), "failed:broken" if failed else "ok")

    def clock(self) -> float:
        return self.now


def sampler(device: Table, *, bound: float, budget_s: float = 1e9) -> Sampler:
    return Sampler(LatencyModel(CHAIN, DOMAINS), device, bound=bound, budget_s=budget_s, clock=device.clock)


def rough(spec: KernelSpec) -> float:
    """The family in the middle of the chain follows no trend; all others do."""
    outputs, inputs = sizes(spec)
    odd = 1.0 + 0.3 * ((outputs // 16 * 7 + inputs // 16 * 5) % 4 > 1) * (min(outputs, inputs) >= 16)
    return bilinear(spec) * (odd if outputs > 10 and inputs > 10 else 1.0)


def test_what_a_few_kernels_explain_needs_no_more():
    device = Table(bilinear)
    found = sampler(device, bound=0.02).run()
    assert found.met
    assert found.rounds == 1
    offered = sum(state.measured + len(state.open) for state in found.shapes)
    assert found.kernels < offered / 2


def test_rough_kernels_are_measured_until_the_bound_is_kept():
    device = Table(rough)
    found = sampler(device, bound=0.02).run()
    assert found.met
    assert found.rounds > 1
    states = {state.label.split(" ", 1)[1]: state for state in found.shapes}
    middle = next(state for label, state in states.items() if label.startswith("1x16 w16x16"))
    others = [state for state in found.shapes if state is not middle and state.open]
    assert middle.measured / (middle.measured + len(middle.open)) > 0.5
    assert all(state.measured / (state.measured + len(state.open)) < 0.6 for state in others)


def test_a_budget_ends_it_and_the_error_is_told():
    device = Table(rough)
    found = sampler(device, bound=1e-6, budget_s=300.0).run()
    assert not found.met
    assert found.error > 1e-6
    assert found.seconds <= 300.0 + 1.0
    everything = sampler(Table(rough), bound=1e-9).run()
    assert everything.error == 0.0, "with every kernel measured nothing is interpolated"
    assert all(not state.open for state in everything.shapes)


def test_a_second_network_of_the_same_shapes_costs_nothing():
    device = Table(bilinear)
    first = sampler(device, bound=0.02).run()
    spent = device.now
    again = sampler(device, bound=0.02).run(first.table)
    assert again.met
    assert device.now == spent
    assert again.kernels <= 8, "some are asked for, and known"


def test_a_kernel_that_fails_does_not_end_it():
    model = LatencyModel(CHAIN, DOMAINS)
    corner = CHAIN[1].at(model.dense)
    found = sampler(Table(bilinear, corner.digest()), bound=0.02).run()
    assert found.shapes
    assert all(corner not in state.open.values() for state in found.shapes)


def test_places_are_spread_out():
    places = [(w,) for w in range(16, 129, 16)]
    assert spread_out(places, [(16,), (128,)], 1) == [(48,)]
    assert len(set(spread_out(places, [], 5))) == 5
    assert spread_out([], [(16,)], 3) == []
    with_taken = spread_out([(32,), (64,)], [(32,)], 1)
    assert with_taken == [(64,)]


@pytest.mark.parametrize("seed", range(3))
def test_the_stated_error_is_about_the_true_one(seed: int):
    generator = np.random.default_rng(seed)

    def noisy(spec: KernelSpec) -> float:
        digest = int(spec.digest(), 16) ^ seed
        return bilinear(spec) * float(np.exp(0.05 * np.random.default_rng(digest).standard_normal()))

    device = Table(noisy)
    found = sampler(device, bound=0.03).run()
    model = LatencyModel(CHAIN, DOMAINS)
    errors = []
    for _ in range(200):
        widths = {g: int(generator.choice(w)) for g, w in DOMAINS.items()}
        truth = sum(noisy(spec) for spec in model.kernels(widths))
        errors.append(model.predict(widths, found.table).ns / truth - 1)
    assert found.met
    assert np.sqrt(np.mean(np.square(errors))) < 0.045
