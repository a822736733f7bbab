"""Limits and objective of a plan, as a change of the problem."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.errors import BudgetError, PlanError, UsageError
from hwprune.latency.fusion import fuse
from hwprune.planner.goal import Goal, Offer
from hwprune.planner.options import PlanOptions
from hwprune.repair.options import RepairOptions
from hwprune.solve.problem import Choice, Domain, Limit, Problem, Term
from hwprune.target import Alignment, Target
from tests.small import SHAPE, Small

torch.set_num_threads(1)
CAPTURED = capture(Small(64), torch.zeros(SHAPE))
DEPS = analyse(CAPTURED)
TARGET = Target(
    name="t",
    kind="cpu",
    tvm={"kind": "llvm"},
    alignment={"float32": Alignment(conv2d=16, depthwise=16, linear=1)},
)


def shaped(options: PlanOptions, least: dict[str, int] | None = None) -> tuple[Problem, Goal]:
    offer = Offer.of(CAPTURED, DEPS, [TARGET], options)
    goal = Goal.of(CAPTURED, DEPS, fuse(CAPTURED.graph), offer, options, least=least)
    domains = tuple(
        Domain(g.name, offer.widths[g.name].widths, tuple(w / 128 for w in offer.widths[g.name].widths))
        for g in DEPS.groups
    )
    terms = tuple(
        Term(d.group, (d.group,), 1.0 * torch.tensor(d.widths, dtype=torch.float64).numpy()) for d in domains
    )
    return goal(Problem(domains, (Limit("latency", terms, 3.0, 100.0),))), goal


def test_nothing_asked_nothing_changed():
    problem, _ = shaped(PlanOptions())
    assert [limit.name for limit in problem.limits] == ["latency"]
    assert problem.minimise is None
    assert [d.widths for d in problem.domains] == [(16, 32, 48, 64)] * 2


def test_a_floor_asks_for_the_least_latency():
    problem, _ = shaped(PlanOptions(floor="75%"))
    assert problem.minimise == "latency"
    assert problem.floor == pytest.approx(0.75)
    assert problem.limits[0].at_most == 100.0
    keeps = Choice({"stem.0": 64, "a.0": 32})
    assert problem.keeps(keeps)
    assert not problem.keeps(Choice({"stem.0": 48, "a.0": 32}))


def test_everything_at_once_and_the_dense_model_decides_what_half_is():
    options = PlanOptions(parameters="50%", memory=0.6, layers={"a.*": "25%..60%"}, floor=0.5)
    problem, goal = shaped(options)
    assert problem.domain("a.0").widths == (16, 32)
    assert problem.domain("stem.0").widths == (16, 32, 48, 64)
    dense = sum(p.numel() for p in CAPTURED.model.parameters())
    assert problem.limit("parameters").at_most == dense // 2
    assert problem.limit("parameters").unit == "parameters"
    needs = goal.needs(Choice({"stem.0": 64, "a.0": 32}))
    assert needs is not None
    assert problem.usage(problem.limit("parameters"), Choice({"stem.0": 64, "a.0": 32})) == needs.parameters
    assert problem.minimise == "latency"


def test_a_floor_that_limits_on_layers_leave_out_of_reach():
    with pytest.raises(BudgetError, match=r"no choice keeps 95.0% .* leave 75.0% at most"):
        shaped(PlanOptions(floor="95%", layers={"a.*": "..50%"}))
    problem, _ = shaped(PlanOptions(floor="75%", layers={"a.*": "..50%"}))
    assert problem.keeps(Choice({"stem.0": 64, "a.0": 32}))


def test_floors_against_starvation_narrow_what_the_user_allows():
    problem, _ = shaped(PlanOptions(), {"stem.0": 48, "a.0": 16})
    assert [d.widths for d in problem.domains] == [(48, 64), (16, 32, 48, 64)]
    # What is left is priced and valued as before.
    assert problem.usage(problem.limits[0], Choice({"stem.0": 48, "a.0": 32})) == 3.0 + 48 + 32
    assert problem.value(Choice({"stem.0": 48, "a.0": 64})) == pytest.approx(112 / 128)
    problem, goal = shaped(PlanOptions(layers={"a.*": "25%..75%"}), {"stem.0": 64, "a.0": 32})
    assert [d.widths for d in problem.domains] == [(64,), (32, 48)]
    # The user's own limits are told apart from the floors.
    assert goal.allowed == {"a.0": (16, 32, 48)}
    with pytest.raises(
        PlanError, match=r"group 'a.0' may have at most 32 units .* below 48 it does more harm"
    ):
        shaped(PlanOptions(layers={"a.*": "..50%"}), {"a.0": 48})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"most_harm": 0.5}, "nobody measures"),
        ({"most_harm": 0.5, "held_out": [1], "solver": "joint"}, "nobody measures"),
        ({"checkpoint": Path("kept.json")}, "checkpoint of nothing"),
        ({"repair": "least_squares"}, r"a repair \(least_squares\) of cuts whose loss nobody measures"),
        ({"repair": RepairOptions(), "held_out": [1], "solver": "joint"}, "solver other than joint"),
        ({"repair": "lasso", "held_out": [1]}, "option 'method' of the repair is 'lasso'"),
        ({"repair": "scales:examples=0", "held_out": [1]}, "option 'examples' of the repair is '0'"),
        ({"repair": "scales:ridge", "held_out": [1]}, "'ridge' behind the repair 'scales' is no option"),
        ({"most_harm": 0.0, "held_out": [1]}, "most_harm is 0.0"),
        ({"most_harm": float("nan"), "held_out": [1]}, "most_harm is nan"),
    ],
)
def test_what_needs_held_out_data(options: dict[str, Any], match: str):
    with pytest.raises(UsageError) as caught:
        PlanOptions(**options)
    assert re.search(match, f"{caught.value.message} {caught.value.hint}")


@pytest.mark.parametrize("floor", ["0%", "101%", "much", float("nan"), True, -0.5])
def test_floors_that_are_none(floor: str | float):
    with pytest.raises(UsageError, match="is not a share of the importance"):
        PlanOptions(floor=floor)


def test_options_that_cannot_be_read_are_refused_at_once():
    with pytest.raises(BudgetError, match="limit '5X' on parameters"):
        PlanOptions(parameters="5X")
    with pytest.raises(BudgetError, match="limit '8' on memory has no unit"):
        PlanOptions(memory="8")
    with pytest.raises(UsageError, match="'half' is not a range"):
        PlanOptions(layers={"a": "half"})
