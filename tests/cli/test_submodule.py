"""A model that cannot be exported whole, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

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
