"""The closed loop on a made-up device."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

import numpy as np
import pytest

from hwprune.errors import BudgetError, BudgetMetError
from hwprune.planner.loop import OVERRUN, TOLERANCE, reject_overrun
from hwprune.solve.domains import domain_values
from tests.planner.fakes import DOMAINS, WIDTHS, Device, bilinear, random_values, staircase

#: What is known beforehand of launches, and not true of these devices, moves predictions by less.
BEFOREHAND = 1e-3

DENSE = {group: widths[-1] for group, widths in DOMAINS.items()}


def worth(widths: dict[str, int], values: dict[str, np.ndarray]) -> float:
    return sum(domain_values(values[g], DOMAINS[g])[DOMAINS[g].index(w)] for g, w in widths.items())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_plan_keeps_its_budget_by_its_own_table_and_all_its_kernels_are_measured(seed: int, share: float):
    device = Device(staircase(seed))
    result = device.loop(random_values(seed)).run(share)
    table = result.table
    rows = [table.get(spec) for spec in device.model.kernels(result.solution.widths)]
    assert all(row is not None and row.status == "ok" for row in rows)
    assert result.kernels_ns == pytest.approx(sum(row.median for row in rows if row))
    assert result.predicted_ns <= result.budget_ns
    assert result.budget_ns == pytest.approx(share * device.truth(DENSE))
    # Nothing is left out and nothing added: here networks take exactly what their kernels take.
    assert result.predicted_ns == pytest.approx(device.truth(result.solution.widths), rel=BEFOREHAND)
    assert result.measured_ns == pytest.approx(result.predicted_ns, rel=BEFOREHAND)
    assert device.measured_twice == 0


def test_refinement_measures_what_was_only_interpolated():
    device = Device(staircase(1))
    result = device.loop(random_values(1)).run("50%")
    grid = {spec.digest() for spec in device.model.specs()}
    used = {spec.digest() for spec in device.model.kernels(result.solution.widths)}
    assert used - grid, "this instance must need a kernel between the grid points"
    assert result.refinements > 0
    assert used <= device.rows.keys()


@pytest.mark.parametrize("seed", range(4))
def test_plan_is_optimal_where_interpolation_is_exact(seed: int):
    device, values = Device(bilinear), random_values(seed)
    result = device.loop(values).run(0.4, checks=0)
    feasible = [
        worth(widths, values)
        for choice in itertools.product(WIDTHS, repeat=3)
        if device.truth(widths := dict(zip("abc", choice, strict=True))) <= result.budget_ns
    ]
    assert result.solution.value == pytest.approx(max(feasible), rel=1e-4)
    assert result.solution.value == pytest.approx(worth(dict(result.solution.widths), values))


def test_a_network_slower_than_its_kernels_as_a_whole_needs_no_correction():
    device = Device(bilinear, lambda total, widths: 1.2 * total)
    result = device.loop(random_values(0)).run("50%")
    assert result.dense.median == pytest.approx(1.2 * result.dense_sum_ns)
    assert result.predicted_ns == pytest.approx(result.measured_ns, rel=BEFOREHAND)
    assert result.predicted_ns == pytest.approx(1.2 * result.kernels_ns, rel=BEFOREHAND)
    assert result.predicted_ns <= result.budget_ns


def test_pruned_networks_that_are_slower_than_their_kernels_are_corrected():
    def network(total: float, widths: object) -> float:
        return total if widths == DENSE else 1.2 * total

    device = Device(bilinear, network)
    result = device.loop(random_values(0)).run("50%")
    first, last = result.rounds[0], result.rounds[-1]
    assert first.measured_ns > result.budget_ns * 1.1
    assert last.measured_ns <= result.budget_ns * (1 + TOLERANCE)
    assert last.predicted_ns == pytest.approx(last.measured_ns, rel=0.03)
    assert result.measured_ns == last.measured_ns
    assert result.predicted_ns <= result.budget_ns
    reject_overrun(result)


def test_an_offset_is_found_by_the_second_network():
    """What a call costs does not shrink with the kernels: the first plan overruns, the second is exact."""
    probe = Device(bilinear)
    offset = 0.3 * probe.truth(DENSE)
    device = Device(bilinear, lambda total, widths: total + offset)
    result = device.loop(random_values(2)).run("60%")
    assert result.rounds[0].measured_ns > result.budget_ns * (1 + TOLERANCE)
    assert len(result.rounds) == 2
    assert result.rounds[1].predicted_ns == pytest.approx(result.rounds[1].measured_ns)
    assert result.predicted_ns - result.kernels_ns == pytest.approx(offset)
    assert result.measured_ns is not None
    assert result.measured_ns <= result.budget_ns


def test_drift_of_the_machine_is_divided_out():
    quiet, drifting = Device(bilinear), Device(bilinear, drift=[1.0, 1.4, 0.7, 2.0])
    expected, found = (d.loop(random_values(3)).run("50%") for d in (quiet, drifting))
    assert found.solution.widths == expected.solution.widths
    assert [r.measured_ns for r in found.rounds] == pytest.approx([r.measured_ns for r in expected.rounds])
    # Every check times the dense network beside the pruned one.
    assert all(set(networks) == {"dense", "pruned"} for networks in drifting.timed[1:])


def test_a_plan_that_leaves_budget_unused_gets_another_round():
    device = Device(bilinear, lambda total, widths: total if widths == DENSE else 0.8 * total)
    values = random_values(4)
    result = device.loop(values).run("50%")
    first, best = result.rounds[0], result.solution
    assert first.measured_ns < 0.95 * result.budget_ns
    assert len(result.rounds) > 1
    assert best.value > worth(dict(first.widths), values)
    assert result.measured_ns is not None
    assert result.measured_ns <= result.budget_ns * (1 + TOLERANCE)


def test_no_round_is_wasted_on_the_same_widths():
    """Where a corrected residual changes nothing, measuring again would not either."""
    device = Device(bilinear, lambda total, widths: total if widths == DENSE else 0.94 * total)
    least = sum(device.cost(s) for s in device.model.kernels(dict.fromkeys("abc", 16)))
    # Just enough for the smallest network and nothing else.
    result = device.loop(random_values(0)).run(f"{least * 1.001:.3f}ns", checks=9)
    assert dict(result.solution.widths) == dict.fromkeys("abc", 16)
    assert len(result.rounds) <= 2


@pytest.mark.parametrize("share", ["3%", 1e-6])
def test_unreachable_budget_names_a_latency_that_can_be_reached(share: str | float):
    device = Device(staircase(0))
    with pytest.raises(BudgetError, match="cannot be reached") as caught:
        device.loop(random_values(0)).run(share)
    assert len(device.timed) == 1, "nothing but the dense network was worth timing"
    found = re.search(r"least reachable latency is (\S+) ms", caught.value.message)
    assert found is not None
    smallest = min(
        device.truth(dict(zip("abc", choice, strict=True)))
        for choice in itertools.product((16, 32), repeat=3)
    )
    assert float(found[1]) * 1e6 == pytest.approx(smallest, rel=BEFOREHAND)
    result = device.loop(random_values(0)).run(f"{found[1]}ms", checks=0)
    assert result.predicted_ns <= result.budget_ns


@pytest.mark.parametrize("latency", ["100%", 1.0, "250%", "1s"])
def test_budget_that_the_dense_network_meets(latency: str | float):
    device = Device(bilinear)
    with pytest.raises(BudgetMetError, match="already meets the budget"):
        device.loop(random_values(0)).run(latency)
    assert [set(networks) for networks in device.timed] == [{"dense"}]


def test_a_target_that_counts_cycles_has_budgets_in_cycles():
    device = Device(bilinear)
    values = random_values(0)
    half = device.loop(values).run("50%", checks=0)
    counted = device.loop(values, unit="cycles").run(f"{half.budget_ns}cycles", checks=0)
    assert counted.solution.widths == half.solution.widths
    with pytest.raises(BudgetError, match="cycles"):
        device.loop(values, unit="cycles").run("8ms", checks=0)


def test_no_checks_trusts_the_prediction():
    device = Device(bilinear, lambda total, widths: total if widths == DENSE else 3 * total)
    result = device.loop(random_values(0)).run("50%", checks=0)
    assert result.measured_ns is None
    assert result.rounds == ()
    assert [set(networks) for networks in device.timed] == [{"dense"}]
    assert result.predicted_ns <= result.budget_ns
    reject_overrun(result)


def test_checks_bound_the_rounds():
    device = Device(bilinear, lambda total, widths: total + (0 if widths == DENSE else 100.0 * widths["a"]))
    result = device.loop(random_values(0)).run("50%", checks=2)
    assert len(result.rounds) <= 2
    assert len(device.timed) == 1 + len(result.rounds)


def factors_in_turn(*factors: float) -> Device:
    """Every new pruned network is slower than its kernels by the next factor."""
    given: dict[tuple[int, ...], float] = {}

    def network(total: float, widths: Mapping[str, int]) -> float:
        if widths == DENSE:
            return total
        return total * given.setdefault(tuple(widths.values()), factors[min(len(given), len(factors) - 1)])

    return Device(bilinear, network)


def test_overrun_is_rejected():
    """Pruning does not help on this device: the plan takes nine tenths of the dense latency."""
    dense = Device(bilinear).truth(DENSE)
    device = Device(bilinear, lambda total, widths: total if widths == DENSE else 0.9 * dense)
    result = device.loop(random_values(0)).run("50%", checks=1)
    assert result.measured_ns == pytest.approx(0.9 * dense)
    with pytest.raises(BudgetError, match=f"takes {0.9 * dense / 1e6:.3f} ms on the device"):
        reject_overrun(result)


def test_of_plans_that_all_miss_the_quickest_is_kept():
    device = factors_in_turn(1.2, 1.6, 2.2)
    result = device.loop(random_values(5)).run("50%", checks=3)
    measured = [r.measured_ns for r in result.rounds]
    assert len(measured) == 3
    assert measured[0] < measured[1], "a later plan is worse here"
    assert result.measured_ns == min(measured)
    assert dict(result.solution.widths) == dict(result.rounds[0].widths)
    with pytest.raises(BudgetError, match="above the budget"):
        reject_overrun(result)


def test_a_later_plan_that_misses_does_not_replace_one_that_keeps_the_budget():
    device = factors_in_turn(0.8, 1.3)
    result = device.loop(random_values(5)).run("50%", checks=2)
    first, second = result.rounds
    assert first.measured_ns < result.budget_ns * 0.95 < result.budget_ns * 1.1 < second.measured_ns
    assert dict(result.solution.widths) == dict(first.widths)
    assert result.measured_ns == first.measured_ns
    assert result.predicted_ns == first.predicted_ns
    reject_overrun(result)


def test_a_plan_slightly_above_its_budget_survives_a_correction_that_finds_no_better():
    """The smallest network measures 3 % above the budget; nothing smaller is left to try."""
    smallest = dict.fromkeys("abc", 16)
    device = Device(bilinear, lambda total, widths: total if widths == DENSE else 1.03 * total)
    budget = sum(device.cost(s) for s in device.model.kernels(smallest))
    result = device.loop(random_values(0)).run(f"{budget * 1.0001:.6f}ns")
    assert dict(result.solution.widths) == smallest
    assert result.measured_ns is not None
    assert 1 + TOLERANCE < result.measured_ns / result.budget_ns < 1 + OVERRUN
    reject_overrun(result)
