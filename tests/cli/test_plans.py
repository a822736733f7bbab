"""Plan files on the command line: shown, compared, checked, edited by hand and applied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hwprune
from hwprune.api import analyse_model
from hwprune.latency.table import LatencyTable
from hwprune.planner.workbench import Workbench
from hwprune.solve.plan import Plan
from tests.cli.conftest import Command
from tests.plans import plan_for
from tests.small import SHAPE, Small

MODEL = "tests.small:Small"
INPUT = ("-i", "1x1x8x8")
CHECK = ("--model", MODEL, *INPUT)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, fake_device: None) -> None:
    """What the made-up device has measured so far is its table."""

    def known(self: Workbench) -> LatencyTable:
        return self.measure_kernels([])

    monkeypatch.setattr(Workbench, "load_table", known)


@pytest.fixture
def planned(hw: Command, device: None, tmp_path: Path) -> Path:
    ran = hw("plan", MODEL, *INPUT, "-t", "x86-64-avx512", "-l", "60%", "-o", "plan.json")
    assert ran.code == 0, ran.err
    return tmp_path / "plan.json"


def edit(path: Path, to: Path, **groups: dict[str, Any]) -> None:
    """Fields of groups (dots of their names as underscores) as a person would change them."""
    data = json.loads(path.read_text())
    for group in data["payload"]["groups"]:
        group.update(groups.get(group["name"].replace(".", "_"), {}))
    to.write_text(json.dumps(data, indent=1))


def findings(text: str) -> dict[str, tuple[str, str]]:
    return {f["about"]: (f["level"], f["text"]) for f in json.loads(text)["findings"]}


def test_show(hw: Command, planned: Path, tmp_path: Path) -> None:
    ran = hw("plan", "show", "plan.json")
    assert ran.code == 0, ran.err
    made = Plan.load(planned)
    for word in ("stem.0", "x16", "(60%)", "predicted", "of the dense", "within", "head (4 channels)"):
        assert word in ran.out
    assert "by hand" not in ran.out
    shown = json.loads(hw("plan", "show", "plan.json", "--json").out)
    assert shown.pop("plan") == "plan.json"
    assert shown == made.model_dump(mode="json")
    edit(planned, tmp_path / "edited.json", a_0={"kept": "0-4", "width": 5, "floor": 2})
    ran = hw("plan", "show", "edited.json")
    assert "edited: by hand" in ran.out and "not a multiple of 16" in ran.out and "at least 2" in ran.out


def test_diff(hw: Command, planned: Path, tmp_path: Path) -> None:
    made = Plan.load(planned)
    again = made.model_copy(update={"solve_seconds": 99.0})
    again.save(tmp_path / "again.json")
    ran = hw("plan", "diff", "plan.json", "again.json")
    assert (ran.code, ran.out) == (0, "the plans are the same\n")
    slower = {"predicted_ns": made.predicted_ns * 1.1, "low_ns": None, "high_ns": None}
    again.model_copy(update=slower).save(tmp_path / "slower.json")
    ran = hw("plan", "diff", "plan.json", "slower.json")
    assert ran.code == 1 and "predicted: " in ran.out and "(+10.00%)" in ran.out
    assert hw("plan", "diff", "plan.json", "slower.json", "--choice").code == 0

    name, units = next((g.name, g.kept_units) for g in made.groups if g.width < g.size)
    without, new = units[0], next(u for u in range(32) if u not in units)
    kept = ",".join(map(str, sorted({*units, new} - {without})))
    edit(planned, tmp_path / "edited.json", **{name.replace(".", "_"): {"kept": kept}})
    ran = hw("plan", "diff", "plan.json", "edited.json", "--choice")
    assert ran.code == 1
    assert f"{name}: {len(units)} of 32 units in both, but others: without {without}, with {new}" in ran.out
    found = json.loads(hw("plan", "diff", "plan.json", "edited.json", "--json").out)
    assert not found["same"]
    (group,) = found["groups"]
    assert (group["group"], group["only_first"], group["only_second"]) == (name, str(without), str(new))
    assert "edited: False, then True" in found["figures"]


def test_a_plan_as_it_was_made_is_good(hw: Command, planned: Path) -> None:
    ran = hw("plan", "check", "plan.json", *CHECK)
    assert ran.code == 0, ran.err
    assert "plan.json: good" in ran.out
    found = json.loads(hw("plan", "check", "plan.json", *CHECK, "--json").out)
    assert found["good"] and found["missing"] == [] and found["max_rel_error"] <= 1e-5
    assert found["predicted_ns"] == Plan.load(planned).predicted_ns
    assert {f["level"] for f in found["findings"]} == {"good"}
    assert [f["about"] for f in found["findings"]] == [
        *("model", "alignment", "cut", "kernels", "latency", "budget")
    ]


def test_an_edited_plan_is_priced_anew(hw: Command, planned: Path, tmp_path: Path) -> None:
    edit(
        planned,
        tmp_path / "edited.json",
        a_0={"kept": "1-16", "width": 16},
        stem_0={"kept": "0-15", "width": 16},
    )
    ran = hw("plan", "check", "edited.json", *CHECK, "--json", "--out", "priced.json", "--measure")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    said = findings(ran.out)
    assert said["measured"][0] == said["budget"][0] == "good" and said["latency"][0] == "note"
    priced, made = Plan.load("priced.json"), Plan.load(planned)
    assert not priced.edited and priced.solver == "milp, then by hand"
    assert priced.predicted_ns == found["predicted_ns"] < made.predicted_ns < made.dense_ns
    assert priced.low_ns is not None and priced.low_ns < priced.predicted_ns
    assert priced.widths == {"stem.0": 16, "a.0": 16}
    again = findings(hw("plan", "check", "priced.json", *CHECK, "--json").out)
    assert again["latency"][0] == "good" and "as the plan says" in again["latency"][1]
    # Without the edit's price, the file keeps saying that nobody has looked at it.
    Plan.load("edited.json").save("saved.json")
    assert Plan.load("saved.json").edited


def test_what_must_not_be_applied(hw: Command, planned: Path, tmp_path: Path) -> None:
    edit(planned, tmp_path / "odd.json", a_0={"kept": "1-17", "width": 17})
    ran = hw("plan", "check", "odd.json", *CHECK)
    assert ran.code == 1
    assert "NOT GOOD" in ran.out
    assert "alignment: a.0 keeps 17 channels, not a multiple of 16" in ran.err
    edit(planned, tmp_path / "odd.json", a_0={"kept": "1-17", "width": 17, "exempt": "wanted"})
    ran = hw("plan", "check", "odd.json", *CHECK)
    assert ran.code == 0, ran.err
    edit(
        planned,
        tmp_path / "whole.json",
        a_0={"kept": "0-31", "width": 32},
        stem_0={"kept": "0-31", "width": 32},
    )
    ran = hw("plan", "check", "whole.json", *CHECK)
    assert ran.code == 1 and "budget: misses the budget" in ran.err
    ran = hw("plan", "check", "plan.json", "--model", "tests.small:Other", *INPUT)
    assert ran.code == 1
    assert "the model has no group 'stem.0'" in ran.err and "does not mention group 'conv'" in ran.err
    assert (
        hw("plan", "check", "plan.json", *CHECK, "--out", "no.json", "--model", "tests.small:Other").code == 1
    )
    assert not Path("no.json").exists()
    ran = hw("plan", "check", "plan.json", "--model", MODEL, "-i", "1x1x12x12", "--measure")
    assert ran.code == 0, ran.err


def test_a_table_without_the_kernels(hw: Command, fake_device: None, tmp_path: Path) -> None:
    model = Small()
    captured, deps = analyse_model(model, torch.zeros(SHAPE))
    made = plan_for(captured.model, deps, {"a.0": range(16)}).model_copy(
        update={"target": "x86-64-avx512", "inputs": (SHAPE,), "dense_ns": 3e6, "budget_ns": 3e6}
    )
    made.save(tmp_path / "plan.json")
    ran = hw("plan", "check", "plan.json", "--model", MODEL, "-t", "x86-64-avx512")
    assert ran.code == 1
    assert "table: " in ran.err and "cut: equals the masked original" in ran.out
    made.model_copy(update={"inputs": ()}).save(tmp_path / "plan.json")
    ran = hw("plan", "check", "plan.json", "--model", MODEL)
    assert ran.code == 2 and "--input" in ran.err


def test_a_block_removed_by_hand(
    hw: Command, planned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = json.loads(planned.read_text())
    data["payload"]["removed_blocks"] = [{"name": "a.0"}]
    planned.write_text(json.dumps(data))
    ran = hw("plan", "check", "plan.json", *CHECK)
    assert ran.code == 1 and "group 'a.0' goes with block 'a.0', but keeps" in ran.err
    edit(planned, planned, a_0={"kept": "", "width": 0, "block": "a.0"})
    ran = hw("plan", "check", "plan.json", *CHECK, "--measure", "--json")
    assert ran.code == 0, ran.err
    assert findings(ran.out)["model"] == ("good", "Small: 2 groups, 1 of 1 blocks removed")
    ran = hw("prune", MODEL, *INPUT, "-p", "plan.json", "--json")
    assert ran.code == 0, ran.err
    assert "edited by hand" in caplog.text
    groups = {g["name"]: (g["requested"], g["achieved"]) for g in json.loads(ran.out)["groups"]}
    assert groups["a.0"] == (0, 0)
    ran = hw("plan", "diff", "plan.json", "pruned", "--json")  # the plan that a pruned model was made by
    assert json.loads(ran.out)["same"] and ran.code == 0
    assert "goes with a.0" in hw("plan", "show", "pruned").out
    loaded = hwprune.load(tmp_path / "pruned", Small)
    assert isinstance(loaded, nn.Module) and not any(n.startswith("a.") for n in loaded.state_dict())


def test_verbs_and_models_are_told_apart(hw: Command) -> None:
    ran = hw("plan", "shwo", "plan.json")
    assert ran.code == 2 and "did you mean 'hwprune plan show'" in ran.err
    assert "hwprune plan show" in hw("plan", "--help").out
    for verb in ("show", "diff", "check"):
        assert f"hwprune plan {verb}" in hw("plan", verb, "--help").out
    assert hw("plan", "show", "gone.json").code == 1
    assert "--input" in hw("plan", MODEL).err
