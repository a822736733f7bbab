"""One plan for several made-up devices."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from hwprune.errors import BudgetError, PlanError, UsageError
from hwprune.latency.kernel import KernelSpec
from hwprune.planner.fleet.fleet import Member, plan_fleet
from hwprune.planner.fleet.problem import MEAN, fleet_problem
from hwprune.planner.fleet.result import FleetResult, reject_fleet_overrun
from hwprune.planner.goal import Goal
from hwprune.planner.outcome import TOLERANCE
from hwprune.solve.domains import domain_values
from hwprune.solve.problem import Choice, Concat, Domain, Limit, Problem, Term
from tests.planner.fakes import DOMAINS, WIDTHS, Device, bilinear, random_values, sizes

VALUES = random_values(11)
DENSE = {group: widths[-1] for group, widths in DOMAINS.items()}


def inputs_cost(spec: KernelSpec) -> float:
    """A device on which what a kernel reads decides."""
    outputs, inputs = sizes(spec)
    return 50.0 + 40.0 * inputs + 0.2 * outputs * inputs


def outputs_cost(spec: KernelSpec) -> float:
    """A device on which what a kernel writes decides, in steps."""
    outputs, inputs = sizes(spec)
    return 80.0 + 32 * -(-outputs // 32) * (20.0 + 0.1 * inputs)


def worth(widths: dict[str, int]) -> float:
    return sum(domain_values(VALUES[g], (w,))[0] for g, w in widths.items())


def choices() -> list[dict[str, int]]:
    return [dict(zip("abc", c, strict=True)) for c in itertools.product(WIDTHS, repeat=3)]


def planned(
    one: Device, two: Device, budgets: tuple[object, object] = ("50%", "60%"), **options: object
) -> FleetResult:
    members = [
        Member(name, device.loop(VALUES), budget)  # type: ignore[arg-type]
        for name, device, budget in zip(("one", "two"), (one, two), budgets, strict=True)
    ]
    return plan_fleet(members, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("budgets", [("50%", "60%"), ("40%", "40%"), ("30%", "90%")])
def test_the_best_plan_that_keeps_every_budget(budgets: tuple[str, str]):
    one, two = Device(inputs_cost), Device(outputs_cost)
    found = planned(one, two, budgets)
    limits = [result.budget_ns for result in found.results]
    shares = [float(text.strip("%")) / 100 for text in budgets]
    assert limits == pytest.approx([s * d.truth(DENSE) for s, d in zip(shares, (one, two), strict=True)])
    best = max(
        worth(widths)
        for widths in choices()
        if one.truth(widths) <= limits[0] and two.truth(widths) <= limits[1]
    )
    assert found.solution.value == pytest.approx(best, rel=1e-3)
    for device, result, limit in zip((one, two), found.results, limits, strict=True):
        assert result.measured_ns == pytest.approx(device.truth(dict(found.solution.widths)))
        assert result.predicted_ns == pytest.approx(result.measured_ns, rel=0.02)
        assert result.measured_ns <= limit * (1 + TOLERANCE)
        assert device.model.missing(found.solution.widths, result.table) == []
    reject_fleet_overrun(found, ["one", "two"])


def test_a_plan_for_one_of_them_alone_misses_the_other():
    one, two = Device(inputs_cost), Device(outputs_cost)
    fleet = planned(one, two, ("40%", "40%"), checks=0)
    alone = [device.loop(VALUES).run("40%", checks=0).solution for device in (one, two)]
    misses = [
        other.truth(dict(solution.widths)) > 0.41 * other.truth(DENSE)
        for other, solution in zip((two, one), alone, strict=True)
    ]
    assert any(misses)
    for solution, missed in zip(alone, misses, strict=True):
        assert solution.value > fleet.solution.value or not missed


def test_only_the_target_that_was_mispredicted_is_corrected():
    slow: Callable[..., float] = lambda total, widths: total * (1.0 if widths == DENSE else 1.3)  # noqa: E731
    one, two = Device(bilinear, slow), Device(inputs_cost)
    found = planned(one, two, ("50%", "80%"))
    assert len(one.timed) >= 3
    for device, result in zip((one, two), found.results, strict=True):
        assert result.measured_ns is not None
        assert result.measured_ns <= result.budget_ns * 1.01
        assert result.measured_ns == pytest.approx(device.truth(dict(found.solution.widths)))


def test_a_target_that_cannot_be_timed_is_only_predicted():
    one, two = Device(inputs_cost), Device(outputs_cost)
    members = [Member("one", one.loop(VALUES), "50%"), Member("two", two.loop(VALUES), "60%", checks=False)]
    found = plan_fleet(members)
    assert found.results[0].measured_ns is not None
    assert found.results[1].measured_ns is None
    assert len(two.timed) == 1


def test_weights_limit_the_mean():
    one, two = Device(inputs_cost), Device(outputs_cost)
    members = [Member("one", one.loop(VALUES), weight=3.0), Member("two", two.loop(VALUES), weight=1.0)]
    found = plan_fleet(members, mean="50%", checks=1)

    def mean(widths: dict[str, int]) -> float:
        return 0.75 * one.truth(widths) / one.truth(DENSE) + 0.25 * two.truth(widths) / two.truth(DENSE)

    best = max(worth(widths) for widths in choices() if mean(widths) <= 0.5)
    assert found.solution.value == pytest.approx(best, rel=5e-3)
    assert found.mean == pytest.approx(mean(dict(found.solution.widths)))
    assert found.mean is not None
    assert found.mean <= 0.5 * (1 + 0.01)
    assert list(found.solution.usage) == [MEAN, "latency on one", "latency on two"]


def test_least_mean_with_a_floor_of_importance():
    one, two = Device(inputs_cost), Device(outputs_cost)
    members = [Member("one", one.loop(VALUES), weight=1.0), Member("two", two.loop(VALUES), weight=1.0)]
    found = plan_fleet(members, shape=Goal(floor=0.8), checks=1)
    assert found.solution.value >= 0.8 * worth(DENSE) * (1 - 1e-9)
    least = min(
        0.5 * one.truth(w) / one.truth(DENSE) + 0.5 * two.truth(w) / two.truth(DENSE)
        for w in choices()
        if worth(w) >= 0.8 * worth(DENSE)
    )
    assert found.mean == pytest.approx(least, rel=0.02)


def test_a_budget_that_one_target_meets_already_does_not_count():
    one, two = Device(inputs_cost), Device(outputs_cost)
    found = planned(one, two, ("50%", "100%"), checks=0)
    alone = one.loop(VALUES).run("50%", checks=0)
    assert found.solution.value == pytest.approx(alone.solution.value, rel=1e-3)


def test_overruns_are_rejected_by_name():
    never: Callable[..., float] = lambda total, widths: max(total, 0.9 * two.truth(DENSE))  # noqa: E731
    two = Device(outputs_cost)
    two_slow = Device(outputs_cost, never)
    found = planned(Device(inputs_cost), two_slow, ("70%", "60%"), checks=1)
    with pytest.raises(BudgetError, match="ms on two, above its budget"):
        reject_fleet_overrun(found, ["one", "two"])


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ([("one", "50%", None)], "two targets or more"),
        ([("one", "50%", None), ("one", "60%", None)], "one is named twice"),
        ([("one", None, 1.0), ("two", "60%", None)], "two has no weight"),
        ([("one", None, 1.0), ("two", None, 0.0)], "weight 0.0 of target two"),
        ([("one", None, 1.0), ("two", None, float("nan"))], "weight nan of target two"),
    ],
)
def test_fleets_that_make_no_sense(members: list[tuple[str, str | None, float | None]], match: str):
    device = Device(bilinear)
    with pytest.raises(UsageError, match=match):
        plan_fleet([Member(name, device.loop(VALUES), b, w) for name, b, w in members])
    assert device.timed == []


def test_a_budget_that_cannot_be_read_or_reached_names_its_target():
    with pytest.raises(BudgetError, match="target two: budget 'fast'"):
        planned(Device(bilinear), Device(bilinear), ("50%", "fast"))
    with pytest.raises(BudgetError) as caught:
        planned(Device(bilinear), Device(bilinear), ("50%", "0.1%"))
    assert "latency on two" in caught.value.message


def test_problems_of_targets_are_joined_exactly():
    random = np.random.default_rng(0)
    domains = tuple(Domain(g, (1, 2), (1.0, 2.0)) for g in "ab")

    def problem(name: str, channels: tuple[int, int]) -> Problem:
        concat = Concat(name, ("a", "b"), channels)
        levels = len(Problem(domains, (), concats=(concat,)).all_levels[name])
        terms = (Term("k", (name,), random.random(levels)), Term("l", ("a",), random.random(2)))
        return Problem(domains, (Limit("latency", terms, random.random(), 2.0),), concats=(concat,))

    parts = [
        ("x", problem("s", (1, 1)), 4.0),
        ("y", problem("s", (1, 2)), 5.0),
        ("z", problem("t", (1, 1)), 6.0),
    ]
    joined = fleet_problem(parts, [0.2, 0.3, 0.5], 0.5)
    assert [limit.name for limit in joined.limits] == [MEAN, *(f"latency on {n}" for n in "xyz")]
    assert len(joined.concats) == 2, "equal sums have one name, others keep apart"
    for a, b in itertools.product((1, 2), repeat=2):
        choice = Choice({"a": a, "b": b})
        own = [p.usage(p.limits[0], choice) for _, p, _ in parts]
        assert [joined.usage(limit, choice) for limit in joined.limits[1:]] == pytest.approx(own)
        mean = sum(w * ns / d for w, ns, (_, _, d) in zip((0.2, 0.3, 0.5), own, parts, strict=True))
        assert joined.usage(joined.limits[0], choice) == pytest.approx(mean)
    other = Problem((Domain("a", (1, 3), (1.0, 2.0)), domains[1]), parts[0][1].limits[:0])
    with pytest.raises(PlanError, match="x and w do not agree"):
        fleet_problem([parts[0], ("w", other, 1.0)], None, None)
