"""Plans in which the criterion has its say on widths: floors, and what widths are worth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import hwprune
from hwprune.capture import capture
from hwprune.capture.captured import Captured
from hwprune.dependency import Dependencies, analyse
from hwprune.errors import BudgetError, CriterionError, PlanError, UsageError
from hwprune.importance import get, gradient_matrix, gradient_redundancy, score
from hwprune.importance.redundancy import Redundancy
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
    return hwprune.plan(
        model,
        IMAGE,
        latency=latency,
        data=options.pop("data", DATA),
        criterion=f"gradient_matrix:floors={floors}",
        tables=tables,
        checks=0,
        options=hwprune.PlanOptions(**options),
    ).plan


@pytest.fixture(scope="module")
def opened(model: Small) -> tuple[Captured, Dependencies]:
    captured = capture(model, torch.zeros(SHAPE))
    return captured, analyse(captured)


@pytest.fixture(scope="module")
def found(opened: tuple[Captured, Dependencies]) -> dict[str, Redundancy]:
    return gradient_redundancy(*opened, DATA)


def effective(found: dict[str, Redundancy], share: float) -> dict[str, int]:
    return {name: each.effective(share) for name, each in found.items()}


def test_every_group_keeps_as_many_units_as_directions_hold_the_share(
    model: Small,
    tables: Path,
    opened: tuple[Captured, Dependencies],
    found: dict[str, Redundancy],
):
    share = 0.9999
    least = effective(found, share)
    assert 32 < least["a.0"] <= 48 < least["stem.0"]  # so that the widths on offer tell
    plan = planned(model, tables, share, "90%")
    assert {group.name: group.floor for group in plan.groups} == least
    assert {group.name: group.width for group in plan.groups} == {"stem.0": 64, "a.0": 48}
    assert plan.criterion == "gradient_matrix:floors=0.9999"
    # What the plan is worth is the energy that is left.
    whole = sum(each.tail_energy(0) for each in found.values())
    lost = sum(found[group.name].tail_energy(group.width) for group in plan.groups)
    assert plan.value == pytest.approx(1.0 - lost / whole, rel=1e-6)
    # Without floors the same budget is met otherwise, and nothing is written of floors.
    free = planned(model, tables, "false", "50%")
    assert all(group.floor is None for group in free.groups)
    assert all(group.width < 64 for group in free.groups)
    # What is kept is the best by the criterion's own order.
    scores = score(*opened, "gradient_matrix", DATA)
    kept = next(group for group in plan.groups if group.name == "a.0").kept_units
    assert set(kept) == set(scores["a.0"].argsort(descending=True)[:48].tolist())


def test_a_share_that_does_not_fit_names_the_groups(model: Small, tables: Path, found: dict[str, Redundancy]):
    least = effective(found, 0.9999)
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
    model: Small,
    tables: Path,
    found: dict[str, Redundancy],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(gradient_matrix, "SHARES", (1.0, 0.9999, 0.95))
    middle, low = effective(found, 0.9999), effective(found, 0.95)
    assert max(low.values()) <= 16  # they bind nowhere
    plan = planned(model, tables, "true", "90%")
    assert {group.name: group.floor for group in plan.groups} == middle
    assert "lowered from 100 % to 100 % of the energy" not in caplog.text
    assert "lowered from 100 % to 99.99 % of the energy" in caplog.text
    plan = planned(model, tables, "true", "50%")
    assert {group.name: group.floor for group in plan.groups} == low
    assert "lowered from 100 % to 95 % of the energy" in caplog.text


def test_frontiers_keep_the_first_floors(model: Small, tables: Path):
    curve = hwprune.frontier(
        model, IMAGE, data=DATA, criterion="gradient_matrix:floors=0.9999", tables=tables, points=4
    )
    assert all(group.width >= (group.floor or 65) for plan in curve.plans for group in plan.groups)


def test_a_fleet_keeps_the_first_floors_and_says_who_holds_them(model: Small, tables: Path):
    pytest.importorskip("onnxruntime")

    with pytest.raises(BudgetError) as caught:
        hwprune.plan(
            model,
            IMAGE,
            ["host", "host-onnxruntime"],
            latency="40%",
            data=DATA,
            criterion="gradient_matrix:floors=0.9999",
            tables=tables,
            checks=0,
        )
    assert caught.value.hint is not None
    assert "the floors of gradient_matrix:floors=0.9999 hold stem.0 (at least " in caught.value.hint


def test_floors_beside_other_wishes(model: Small, tables: Path, found: dict[str, Redundancy]):
    # Limits on layers that contradict them.
    with pytest.raises(PlanError, match=r"at most 32 units .* by the floors of gradient_matrix"):
        planned(model, tables, 0.9999, layers={"a.*": "..50%"})
    # Floors by harm: the greater one counts.
    plan = planned(model, tables, 0.9999, "90%", held_out=evaluation(), most_harm=1e6)
    assert {group.name: group.floor for group in plan.groups} == effective(found, 0.9999)
    with pytest.raises(UsageError, match="the joint solver finds widths by the loss alone"):
        planned(model, tables, 0.9, held_out=evaluation(), solver="joint")
    with pytest.raises(CriterionError, match=r"fewer than two examples per unit in stem\.0") as caught:
        planned(model, tables, 0.9, data=DATA[:2])
    assert caught.value.hint == "give more batches, or no floors"
    for floors in (0, 1.5, -1):
        with pytest.raises(UsageError, match="floors at a share of"):
            get("gradient_matrix", floors=floors)
