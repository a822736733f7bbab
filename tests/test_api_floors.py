"""Plans in which the criterion has its say on widths: floors, and what widths are worth."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import hwprune
from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.errors import BudgetError, CriterionError, PlanError, UsageError
from hwprune.importance import get, gradient_matrix, gradient_redundancy, score
from hwprune.planning.iterative import IterativeOptions
from hwprune.repair import FinetuneOptions, finetune
from tests.small import SHAPE, Small, batches, evaluation, train

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("fake_device")
IMAGE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
DATA = batches(8)


@pytest.fixture(scope="module")
def model() -> Small:
    """Trained, so that the loss tells units apart: all 64 of both groups, most of them weakly."""
    model = Small(64)
    finetune(model, train(), options=FinetuneOptions(steps=30, lr=0.05, optimizer="sgd", weight_decay=0.0))
    return model.eval()


def planned(model: Small, tables: Path, floors: Any, latency: Any = "80%", **options: Any) -> hwprune.Plan:
    found = hwprune.plan(
        model,
        IMAGE,
        latency=latency,
        data=options.pop("data", DATA),
        criterion=f"gradient_matrix:floors={floors}",
        tables=tables,
        checks=0,
        options=hwprune.PlanOptions(**options),
    )
    return found.plan


def effective(model: Small, share: float) -> dict[str, int]:
    captured = capture(model, torch.zeros(SHAPE))
    found = gradient_redundancy(captured, analyse(captured), DATA)
    return {name: each.effective(share) for name, each in found.items()}


def test_every_group_keeps_as_many_units_as_directions_hold_the_share(model: Small, tables: Path):
    share = 0.9999
    least = effective(model, share)
    assert 32 < least["a.0"] <= 48 < least["stem.0"]  # so that the widths on offer tell
    plan = planned(model, tables, share, "90%")
    assert {group.name: group.floor for group in plan.groups} == least
    assert {group.name: group.width for group in plan.groups} == {"stem.0": 64, "a.0": 48}
    assert plan.criterion == "gradient_matrix:floors=0.9999"
    # Without floors the same budget is met otherwise, and nothing is written of floors.
    free = planned(model, tables, "false", "50%")
    assert all(group.floor is None for group in free.groups)
    assert all(group.width < 64 for group in free.groups)
    # What is kept is the best by the criterion's own order.
    captured = capture(model, torch.zeros(SHAPE))
    scores = score(captured, analyse(captured), "gradient_matrix", DATA)
    kept = next(group for group in plan.groups if group.name == "a.0").kept_units
    assert set(kept) == set(scores["a.0"].argsort(descending=True)[:48].tolist())


def test_a_share_that_does_not_fit_names_the_groups(model: Small, tables: Path):
    least = effective(model, 0.9999)
    with pytest.raises(BudgetError, match=r"floors=0\.9999 leave no plan for a budget of 40%") as caught:
        planned(model, tables, 0.9999, "40%")
    for name, width in least.items():
        assert f"{name} (at least {width} of 64)" in caught.value.message
    assert caught.value.hint is not None and "floors=true" in caught.value.hint
    # The least that is named can be had, and nothing below it.
    told = re.search(r"the least with them is ([\d.]+) ms", caught.value.message)
    assert told
    plan = planned(model, tables, 0.9999, f"{float(told[1]) * 1.001}ms")
    assert {group.name: group.width for group in plan.groups} == {"stem.0": 64, "a.0": 48}
    # What is out of reach without floors is not their fault.
    with pytest.raises(BudgetError, match="cannot be reached: the least reachable latency") as caught:
        planned(model, tables, 0.9999, "1%")
    assert "leave no plan" not in caught.value.message


def test_floors_are_lowered_until_they_fit_and_it_is_said(
    model: Small, tables: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(gradient_matrix, "SHARES", (1.0, 0.9999, 0.95))
    middle, low = effective(model, 0.9999), effective(model, 0.95)
    assert max(low.values()) <= 16  # they bind nowhere
    plan = planned(model, tables, "true", "90%")
    assert {group.name: group.floor for group in plan.groups} == middle
    assert "lowered from 100 % to 100 % of the energy" not in caplog.text
    assert "lowered from 100 % to 99.99 % of the energy" in caplog.text
    plan = planned(model, tables, "true", "50%")
    assert {group.name: group.floor for group in plan.groups} == low
    assert "lowered from 100 % to 95 % of the energy" in caplog.text
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        monkeypatch.setattr(gradient_matrix, "SHARES", (0.95, 0.5))
        planned(model, tables, "true", "50%")
        assert "lowered" not in caplog.text


def test_the_budget_is_spread_so_that_the_least_energy_is_lost(model: Small, tables: Path):
    captured = capture(model, torch.zeros(SHAPE))
    found = gradient_redundancy(captured, analyse(captured), DATA)
    plan = planned(model, tables, 0.5, "60%")
    widths = {group.name: group.width for group in plan.groups}
    whole = sum(each.tail_energy(0) for each in found.values())
    lost = sum(found[name].tail_energy(width) for name, width in widths.items())
    assert plan.value == pytest.approx(1.0 - lost / whole, rel=1e-6)


def test_frontiers_keep_the_first_floors(model: Small, tables: Path):
    curve = hwprune.frontier(
        model, IMAGE, data=DATA, criterion="gradient_matrix:floors=0.9999", tables=tables, points=4
    )
    assert all(group.width >= (group.floor or 65) for plan in curve.plans for group in plan.groups)


def test_floors_beside_other_wishes(model: Small, tables: Path):
    # Limits on layers that contradict them.
    with pytest.raises(PlanError, match=r"at most 32 units .* at least \d+ by the floors of gradient_matrix"):
        hwprune.frontier(
            model,
            IMAGE,
            data=DATA,
            criterion="gradient_matrix:floors=0.9999",
            tables=tables,
            options=hwprune.PlanOptions(layers={"a.*": "..50%"}),
        )
    with pytest.raises(PlanError, match=r"at most 32 units .* by the floors of gradient_matrix"):
        planned(model, tables, 0.9999, layers={"a.*": "..50%"})
    # Floors by harm: the greater one counts.
    plan = planned(model, tables, 0.9999, "90%", held_out=evaluation(), most_harm=1e6)
    assert {group.name: group.floor for group in plan.groups} == effective(model, 0.9999)
    with pytest.raises(UsageError, match="the joint solver finds widths by the loss alone"):
        planned(model, tables, 0.9, held_out=evaluation(), solver="joint")
    with pytest.raises(CriterionError, match=r"fewer than two examples per unit in stem\.0") as caught:
        planned(model, tables, 0.9, data=DATA[:2])
    assert caught.value.hint == "give more batches, or no floors"
    with pytest.raises(UsageError, match="build up batch by batch"):
        hwprune.prune_iteratively(
            model,
            IMAGE,
            latency="50%",
            train=DATA,
            criterion="gradient_matrix:floors=true",
            options=IterativeOptions(rounds=2),
        )
    for floors in (0, 1.5, -1):
        with pytest.raises(UsageError, match="floors at a share of"):
            get("gradient_matrix", floors=floors)
