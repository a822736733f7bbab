"""Plans survive the disk, tell when they were edited, and fit only their own model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from hwprune.errors import ArtifactError, PlanError
from hwprune.solve.plan import SUMMARY_HEADER, Plan, model_fingerprint
from hwprune.solve.plan_group import PlanGroup
from hwprune.solve.plan_parts import LedgerLine
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
            PlanGroup.from_units("0", 16, [9, 0, 1, 2, 3, 4, 6, 8], importance_kept=0.7, multiple=8),
            PlanGroup.from_units("2", 12, range(12), importance_kept=1, multiple=8, exempt="dense 12"),
        ),
        ledger=(LedgerLine(name="head", channels=10, reason="graph output"),),
    )


def test_round_trip(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == plan and not loaded.edited
    assert loaded.keep == {"0": (0, 1, 2, 3, 4, 6, 8, 9), "2": tuple(range(12))}
    assert loaded.widths == {"0": 8, "2": 12}
    assert '"kept": "0-4,6,8-9"' in (tmp_path / "plan.json").read_text()


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
    right = {"0": 16, "2": 12}
    plan.check(right, model_fingerprint(_net()))
    other = model_fingerprint(nn.Sequential(nn.Conv2d(3, 16, 5)))
    for sizes, words in (
        ({"0": 32, "2": 12}, "group '0' has 32 units, the plan says 16"),
        ({"0": 16}, "no group '2'"),
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
    assert all(len(row) == len(SUMMARY_HEADER) for row in rows)
