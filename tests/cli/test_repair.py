"""``hwprune repair --fit``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import hwprune
from hwprune.api import analyse_model
from hwprune.repair import FinetuneOptions, finetune
from tests.cli.conftest import Command
from tests.plans import plan_for
from tests.small import SHAPE, Small, train

KEEP = {"stem.0": list(range(0, 32, 4)), "a.0": list(range(1, 32, 4))}


@pytest.fixture
def cut(tmp_path: Path) -> None:
    """A trained network in dense.safetensors, and a quarter of it in pruned/."""
    model = Small()
    finetune(model, train(), options=FinetuneOptions(epochs=16, lr=0.1))
    save_file(model.eval().state_dict(), tmp_path / "dense.safetensors")
    captured, deps = analyse_model(model, torch.randn(SHAPE))
    made = plan_for(captured.model, deps, KEEP)
    hwprune.save(hwprune.apply_plan(model, torch.randn(SHAPE), made), tmp_path / "pruned")


BASE = ("repair", "tests.small:Small", "--pruned", "pruned", "--data", "tests.small:train", "--epochs", "0")


@pytest.mark.usefixtures("cut")
def test_layers_are_fitted_to_the_dense_model(hw: Command, tmp_path: Path) -> None:
    dense = ("--weights", "dense.safetensors", "--evaluate", "tests.small:evaluation", "--json")
    ran = hw(*BASE, *dense, "--fit-examples", "32", "--fit-memory", "0.5", "-o", "fitted")
    found = json.loads(ran.out)
    assert found["layers"] == 3 and found["steps"] == 0
    assert found["accuracy_after"] == found["accuracy_recalibrated"] > found["accuracy_before"]
    assert "fit a.0.weight" in ran.err
    (record,) = json.loads((tmp_path / "fitted/plan.json").read_text())["payload"]["repairs"]
    assert record["examples"] == 32 and record["options"]["method"] == "least_squares"
    assert record["options"]["memory_gb"] == 0.5
    scaled = json.loads(hw(*BASE, *dense, "--fit", "scales", "-o", "scaled").out)
    assert scaled["accuracy_after"] >= scaled["accuracy_before"]
    again = ("repair", BASE[1], "--pruned", "fitted", *BASE[4:])
    assert "layers" not in json.loads(hw(*again, *dense, "-o", "twice").out)
    plain = json.loads(hw(*BASE, *dense, "--fit", "none", "-o", "plain").out)
    assert "layers" not in plain and found["accuracy_after"] >= plain["accuracy_after"]


@pytest.mark.usefixtures("cut")
def test_fits_that_cannot_be(hw: Command, tmp_path: Path) -> None:
    unknown = hw(*BASE, "--weights", "dense.safetensors", "--fit", "lasso")
    assert unknown.code == 2 and "use least-squares, scales, none" in unknown.err
    blind = hw(*BASE, "--fit", "scales")
    assert blind.code == 2 and "--weights" in blind.err
    loose = hw(*BASE, "--weights", "dense.safetensors", "--fit", "scales", "--ridge", "-1")
    assert loose.code == 2 and "ridge" in loose.err
    # The fit reads them, and then the BatchNorms.
    once = hw(
        *BASE[:4], "--data", "tests.cli.test_iterate:once", "--epochs", "0", "--weights", "dense.safetensors"
    )
    assert once.code == 2 and "once" in once.err
    assert not (tmp_path / "repaired").exists()
