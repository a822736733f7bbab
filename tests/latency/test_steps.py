"""What a unit costs, from the steps of a latency table."""

from __future__ import annotations

import itertools

import pytest

from hwprune.errors import UsageError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.predict import LatencyModel
from hwprune.latency.steps import step_latency
from tests.planner.fakes import CHAIN, DOMAINS, row, sizes, table


def _price(spec: KernelSpec) -> float:
    """Steps of 32 outputs; inputs are free."""
    outputs, _ = sizes(spec)
    return 100.0 + 32.0 * -(-outputs // 32)


def test_a_unit_costs_its_part_of_the_step() -> None:
    model = LatencyModel(CHAIN, DOMAINS)
    every = itertools.product(*DOMAINS.values())
    specs = {s.digest(): s for each in every for s in model.kernels(dict(zip(DOMAINS, each, strict=True)))}
    prices = table([row(spec, _price(spec)) for spec in specs.values()])
    dense = sum(_price(spec) for spec in model.kernels(model.dense))
    # From 128 to 112 nothing is saved: both are in the last step.
    assert step_latency(model, prices) == {"a": 0.0, "b": 0.0, "c": 0.0}
    # From 112 to 96 one step of 32 is, by 16 units.
    found = step_latency(model, prices, {"b": 112})
    assert found["b"] == pytest.approx(32.0 / dense / 16)
    assert (found["a"], found["c"]) == (0.0, 0.0)
    assert step_latency(model, prices, {"b": 16})["b"] == 0.0
    with pytest.raises(UsageError, match="width 100 of group b is not on offer"):
        step_latency(model, prices, {"b": 100})
