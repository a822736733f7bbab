"""Plans survive the disk, tell when they were edited, and fit only their own model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from hwprune.artifact import write_json
from hwprune.errors import ArtifactError, PlanError
from hwprune.solve.fingerprint import model_fingerprint
from hwprune.solve.plan import SUMMARY_HEADER, Plan
from hwprune.solve.plan_diff import diff_plans
from hwprune.solve.plan_group import PlanGroup
from hwprune.solve.plan_parts import LedgerLine, LimitLine, Rechecked, RemovedBlock
from hwprune.solve.plan_words import plan_words
from hwprune.solve.ranges import format_ranges, parse_ranges


@given(st.sets(st.integers(0, 200), min_size=1))
def test_ranges_round_trip_and_are_compact(units: set[int]) -> None:
    text = format_ranges(units)
    assert parse_ranges(text, 201) == tuple(sorted(units))
    starts = sum(1 for u in units if u - 1 not in units)
    assert text.count(",") == starts - 1


def test_known_ranges() -> None:
    assert format_ranges([12, 0, 1, 2, 3, 7, 9, 10, 11, 7]) == "0-3,7,9-12"
    assert parse_ranges(" 0-1, 3 ", 4) == (0, 1, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a unit"),
        ("1-", "not a unit"),
        ("-1", "not a unit"),
        ("0,,2", "not a unit"),
        ("01", "not a unit"),
        ("a", "not a unit"),
        ("3-1", "backwards"),
        ("0-4", "last unit, 3"),
        ("0,0", "repeats"),
        ("2,1", "precedes"),
        ("0-2,2-3", "repeats"),
    ],
)
def test_malformed_ranges(text: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        parse_ranges(text, 4)


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 12, 1))


@pytest.fixture
def plan() -> Plan:
    return Plan(
        model="net",
        fingerprint=model_fingerprint(_net()),
        target="host",
        pipeline="abc",
        table="host/tvm-0.27",
        table_digest="def",
        criterion="l1",
        solver="milp",
        seed=0,
        budget_ns=1e6 / 3,
        budget_asked="50%",
        dense_ns=2e6 / 3,
        predicted_ns=0.3e6,
        residual_ns=1e4,
        value=0.1 + 0.2,
        bound=0.31,
        gap=1e-5,
        solve_seconds=0.5,
        groups=(
            PlanGroup.from_units(
                "0",
                16,
                [9, 0, 1, 2, 3, 4, 6, 8],
                importance_kept=0.7,
                multiple=8,
                allowed=(4, 5, 6, 7, 8, 16),
                floor=4,
            ),
            PlanGroup.from_units("2", 12, range(12), importance_kept=1, multiple=8, exempt="dense 12"),
            PlanGroup.from_units("5", 6, (), importance_kept=0, block="b"),
        ),
        removed_blocks=(RemovedBlock(name="b", latency_share=0.1),),
        limits=(
            LimitLine(name="parameters", unit="bytes", used=10.0, at_most=20.0),
            LimitLine(name="memory", unit="bytes", used=3.0),
        ),
        resolution=(96, 128),
        low_ns=0.29e6,
        high_ns=0.33e6,
        rechecked=Rechecked(loss=0.4, dense=0.3, uniform=0.5, examples=64),
        ledger=(LedgerLine(name="head", channels=10, reason="graph output"),),
    )


def test_round_trip(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == plan and not loaded.edited
    assert loaded.keep == {"0": (0, 1, 2, 3, 4, 6, 8, 9), "2": tuple(range(12)), "5": ()}
    assert loaded.widths == {"0": 8, "2": 12, "5": 0}
    assert loaded.remaining.keys() == {"0", "2"} and loaded.removed == ("b",)
    assert '"kept": "0-4,6,8-9"' in (tmp_path / "plan.json").read_text()


def test_a_file_has_a_line_for_every_group(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    lines = path.read_text().splitlines()
    for group in plan.groups:
        (line,) = (line for line in lines if f'"name": "{group.name}"' in line)
        assert f'"width": {group.width}, "kept": "{group.kept}"' in line and "null" not in line
    assert json.loads(path.read_text())["version"] == 2
    # An editor that lays the file out anew has not changed it.
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True))
    assert Plan.load(path) == plan


def test_version_1_is_still_read(tmp_path: Path) -> None:
    group = {
        "name": "0", "size": 4, "kept": "0-1,3", "width": 3, "channels_per_unit": 1, "multiple": 1,
        "exempt": None, "importance_kept": 0.9,
    }  # fmt: skip
    payload = {
        "model": "net", "fingerprint": "f", "target": "host", "pipeline": "p", "table": "t",
        "table_digest": "d", "criterion": "l1", "solver": "milp", "seed": 0, "budget_ns": 5.0,
        "budget_asked": "50%", "dense_ns": 10.0, "predicted_ns": 4.0, "residual_ns": 1.0, "value": 1.0,
        "bound": 1.0, "gap": 0.0, "solve_seconds": 0.1, "unit": "ns", "provenance": "measured",
        "groups": [group], "ledger": [], "submodule": None, "inside_heads": [], "prune_outputs": False,
    }  # fmt: skip
    write_json(tmp_path / "plan.json", "hwprune.plan", 1, payload)
    plan = Plan.load(tmp_path / "plan.json")
    assert not plan.edited and plan.keep == {"0": (0, 1, 3)}
    assert (plan.removed_blocks, plan.resolution, plan.objective.least, plan.low_ns) == ((), None, None, None)
    plan.save(tmp_path / "again.json")
    assert Plan.load(tmp_path / "again.json") == plan


def test_a_hand_edit_loads_with_a_flag_that_stays(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    path.write_text(path.read_text().replace('"0-4,6,8-9"', '"0-7"'))
    edited = Plan.load(path)
    assert edited.edited and edited.keep["0"] == tuple(range(8))
    edited.save(path)
    assert Plan.load(path) == edited


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"0-4,6,8-9"', '"0-4,6"', "group '0': width is 8, but kept lists 6"),
        ('"0-4,6,8-9"', '"9-16"', "group '0': kept: '9-16' is beyond the last unit, 15"),
        ('"0-4,6,8-9"', '"x"', "group '0': kept: 'x' is not"),
        ('"name": "2"', '"name": "0"', "group '0' is listed twice"),
        ('"criterion"', '"criterium"', "unknown field 'criterium' .nearest valid: 'criterion'"),
        ('"multiple"', '"multiples"', "'groups.0.multiples' .nearest valid: 'multiple'"),
        ('"seed": 0', '"seed": "x"', "'seed'"),
        ('"floor": 4', '"floor": 9', "group '0': width 8 is below its floor of 9"),
        (
            '"allowed": "4-8,16"',
            '"allowed": "4,16"',
            "group '0': width 8 is not among the allowed widths 4,16",
        ),
        ('"allowed": "4-8,16"', '"allowed": "4-17"', "group '0': allowed: '4-17' is beyond"),
        ('"width": 0, "kept": ""', '"width": 2, "kept": "0,3"', "'5' goes with block 'b', but keeps 2 units"),
        ('"block": "b"', '"block": null', "'5' keeps nothing, and names no removed block"),
        ('"block": "b"', '"block": "c"', "'5' goes with block 'c', which is not in removed_blocks"),
        ('"low_ns": 290000.0', '"low_ns": 310000.0', "300000 is not between low_ns 310000 and high_ns"),
        ('"low_ns": 290000.0', '"low_ns": null', "low_ns and high_ns belong together"),
        ('"latency_share"', '"share"', "'removed_blocks.0.share' .nearest valid: 'latency_share'"),
        ('"least": null', '"last": null', "'objective.last' .nearest valid: 'least'"),
        ('"resolution": [96, 128]', '"resolution": [0, 128]', "resolution 0x128"),
        ('"name": "memory"', '"name": "parameters"', "limit 'parameters' is listed twice"),
    ],
)
def test_wrong_hand_edits_are_named(plan: Plan, tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(PlanError, match=words) as error:
        Plan.load(path)
    assert str(path) in str(error.value)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_edited_loads_or_is_refused(plan: Plan, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    envelope = json.loads(path.read_text())
    here: Any = envelope
    key: Any = "payload"
    while (
        isinstance(here[key], (dict, list)) and here[key] and (key == "payload" or data.draw(st.booleans()))
    ):
        here = here[key]
        key = data.draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
    numbers = st.integers(-2, 20) | st.floats(allow_nan=False, allow_infinity=False)
    values = st.none() | st.booleans() | numbers | st.sampled_from(["", "b", "0-3", "0", "x,", "9" * 30])
    here[key] = data.draw(
        values | st.lists(values, max_size=2) | st.dictionaries(st.text(max_size=3), values)
    )
    path.write_text(json.dumps(envelope))
    try:
        found = Plan.load(path)
    except (PlanError, ArtifactError) as error:
        assert str(path) in error.message and error.hint
        return
    found.save(path)
    assert Plan.load(path) == found
    assert len(found.summary_rows()) == len(found.groups)
    assert plan_words(found) and diff_plans(plan, found).to_dict()


def test_differences_are_told_shortly_and_kept_in_full(plan: Plan) -> None:
    odd = PlanGroup.from_units("0", 64, range(1, 64, 2), importance_kept=0.5)
    even = PlanGroup.from_units("0", 64, [*range(0, 64, 2), 63], importance_kept=0.5)
    found = diff_plans(
        plan.model_copy(update={"groups": (odd, plan.groups[2])}),
        plan.model_copy(update={"groups": (even,), "removed_blocks": ()}),
    )
    assert found.choice[0] == "block b goes only in the first plan"
    words = "group 0: 32 of 64 units, then 33: without 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29 and others, "
    assert found.choice[1].startswith(f"{words}31 in all, with 0,2,")
    assert found.choice[2] == "group 5: only in the first plan"
    assert found.groups[0].only_first == ",".join(map(str, range(1, 62, 2)))
    assert not found.figures and not found.same and not found.same_choice
    assert diff_plans(plan, plan).same


def test_other_versions_are_refused(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "version": 99}))
    with pytest.raises(ArtifactError, match="newer"):
        Plan.load(path)


def test_a_plan_is_frozen_and_strict(plan: Plan) -> None:
    with pytest.raises(ValidationError):
        plan.seed = 1  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValidationError):
        Plan.model_validate({**plan.model_dump(), "extra": 1})
    with pytest.raises(ValidationError):
        Plan.model_validate({**plan.model_dump(), "gap": float("nan")})


def test_check_names_what_differs(plan: Plan) -> None:
    right = {"0": 16, "2": 12, "5": 6}
    plan.check(right, model_fingerprint(_net()))
    other = model_fingerprint(nn.Sequential(nn.Conv2d(3, 16, 5)))
    for sizes, words in (
        ({**right, "0": 32}, "group '0' has 32 units, the plan says 16"),
        ({"0": 16, "5": 6}, "no group '2'"),
        ({**right, "3": 4}, "does not mention group '3'"),
        (right, "names or shapes of its parameters differ"),
    ):
        with pytest.raises(PlanError, match=words) as error:
            plan.check(sizes, other)
        assert "'net'" in str(error.value) and error.value.hint


def test_fingerprint_sees_structure_and_not_values() -> None:
    assert model_fingerprint(_net()) == model_fingerprint(_net())
    changed = _net()
    changed[2] = nn.Conv2d(16, 13, 1)
    assert model_fingerprint(changed) != model_fingerprint(_net())
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    before = model_fingerprint(tied)
    tied[1].weight = tied[0].weight
    assert model_fingerprint(tied) == before


def test_summary(plan: Plan) -> None:
    rows = plan.summary_rows()
    assert rows[0] == ("0", "16", "8", "50%", "70%", "x8")
    assert rows[1] == ("2", "12", "12", "100%", "100%", "dense 12")
    assert rows[2] == ("5", "6", "0", "0%", "0%", "goes with b")
    assert all(len(row) == len(SUMMARY_HEADER) for row in rows)
