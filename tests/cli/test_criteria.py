"""``hwprune inspect --criteria``."""

from __future__ import annotations

import json

from hwprune.importance import available, describe
from tests.cli.conftest import Command


def test_criteria_are_listed_without_a_model(hw: Command):
    ran = hw("inspect", "--criteria", "--json")
    found = {each["name"]: each for each in json.loads(ran.out)["criteria"]}
    assert (ran.code, ran.err, sorted(found)) == (0, "", list(available()))
    assert found["taylor2019"] == describe("taylor2019").as_dict()
    text = hw("inspect", "--criteria").out
    assert all(name in text for name in available())
    assert "labelled" in text and "ICLR 2017" in text and "form=consumers" in text


def test_everything_else_needs_a_model_and_its_input(hw: Command):
    for arguments, missing in (((), "MODEL"), (("tests.small:Small", "--kernels"), "--input")):
        ran = hw("inspect", *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert f"'{missing}'" in ran.err and "missing; only --criteria needs none" in ran.err
