"""Plans that leave blocks out or choose a resolution, through the public API, on a made-up device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import hwprune
from hwprune.errors import BudgetError
from tests.nets import settle
from tests.planner.residual_nets import IMAGE, Blocks

pytestmark = pytest.mark.usefixtures("fake_device")


def test_a_plan_without_blocks_is_cut_and_verified(tmp_path: Path):
    model = settle(Blocks())
    with pytest.raises(BudgetError):
        hwprune.plan(model, IMAGE, latency="20%", tables=tmp_path)
    pruned = hwprune.prune(
        model, IMAGE, latency="20%", tables=tmp_path, options=hwprune.PlanOptions(depth=True)
    )
    plan = pruned.plan
    assert plan.removed
    assert {group.name for group in plan.groups if group.block is not None} == {
        f"{name}.a.0" for name in plan.removed
    }
    assert pruned.max_rel_error <= 1e-4
    assert pruned.model(IMAGE).shape == (1, 10)
    reasons = {line.name: line.reason for line in plan.ledger}
    assert "another kernel changes" in reasons["block three"]
    assert plan.low_ns is not None
    assert plan.high_ns is not None
    assert plan.low_ns < plan.predicted_ns < plan.high_ns
    assert plan.interpolated == 0.0
    assert pruned.planned is not None
    assert pruned.planned.loop.measured_ns is not None
    assert pruned.planned.loop.measured_ns <= plan.budget_ns * 1.05


def test_an_input_resolution_is_chosen(tmp_path: Path):
    image = torch.nn.functional.interpolate(IMAGE, (12, 12))
    options = hwprune.PlanOptions(resolutions=(6,))
    planned = hwprune.plan(settle(Blocks()), image, latency="30%", tables=tmp_path, options=options)
    assert planned.plan.resolution == (6, 6)
    small = planned.loop.rounds[-1]
    assert small.resolution == (6, 6)
    assert planned.loop.measured_ns is not None
    assert planned.loop.measured_ns <= planned.plan.budget_ns * 1.05
