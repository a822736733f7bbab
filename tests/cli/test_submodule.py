"""A model that cannot be exported whole, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hwprune
from hwprune.api import analyse_model
from tests.cli.conftest import Command
from tests.plans import plan_for
from tests.small import SHAPE, Small

WHOLE = ("tests.cli.test_submodule:Whole", "-i", "x".join(map(str, SHAPE)))


class Whole(nn.Module):
    """Which way it goes depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Small()

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return y if y.sum() > 0 else -y


def test_inspect_and_prune(hw: Command, tmp_path: Path):
    refused = hw("inspect", *WHOLE)
    assert refused.code == 1
    assert "prune a submodule that exports" in refused.err
    seen = json.loads(hw("inspect", *WHOLE, "--submodule", "body", "--json").out)
    assert [g["name"] for g in seen["groups"]] == ["stem.0", "a.0"]
    assert seen["blocks"] == [{"name": "a.0", "reason": None}]
    assert "can be removed" in hw("inspect", *WHOLE, "--submodule", "body").out
    wrong = hw("inspect", *WHOLE, "--submodule", "bdy")
    assert wrong.code == 2
    assert "body" in wrong.err

    captured, deps = analyse_model(Whole(), torch.randn(SHAPE), submodule="body")
    plan_for(captured.model, deps, {"a.0": [1, 2, 30]}, submodule="body").save(tmp_path / "plan.json")
    found = json.loads(hw("prune", *WHOLE, "--plan", "plan.json", "-o", "out", "--json").out)
    assert {g["name"]: (g["channels"], g["requested"], g["achieved"]) for g in found["groups"]} == {
        "stem.0": (32, 32, 32),
        "a.0": (32, 3, 3),
    }
    loaded = hwprune.load(tmp_path / "out", Whole)
    assert loaded.body.a[0].out_channels == 3


@pytest.mark.usefixtures("fake_device")
def test_planned_pruned_trained_and_pruned_again(hw: Command, tmp_path: Path):
    planned = hw(
        "plan", *WHOLE, "--submodule", "body", "--latency", "80%", "--checks", "0", "-o", "plan.json"
    )
    assert planned.code == 0, planned.err
    assert hwprune.Plan.load(tmp_path / "plan.json").submodule == "body"
    assert hw("prune", *WHOLE, "--plan", "plan.json", "-o", "out").code == 0

    model, x = Whole(), torch.randn(SHAPE)
    optimizer = torch.optim.AdamW(model.parameters())
    model(x).square().sum().backward()
    optimizer.step()
    options = {"latency": "80%", "submodule": "body", "checks": 0}
    once = hwprune.prune(model, x, **options)
    assert once.plan.predicted_ns <= once.plan.budget_ns
    assert type(once.model) is Whole
    hwprune.prune_optimizer(optimizer, once)
    once.model(x).square().sum().backward()
    optimizer.step()
    twice = hwprune.prune(once.model, x, **options)
    both = hwprune.compose(once.plan, twice.plan)
    assert both.submodule == "body"
    assert both.widths != once.plan.widths
    widths = {o.name: o.achieved for o in hwprune.apply_plan(model, x, both).outcomes if o.reason is None}
    assert widths == {o.name: o.achieved for o in twice.outcomes if o.reason is None}
