"""What a criterion says of itself is complete, and in one place."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import ClassVar, get_args

import pytest

from hwprune import importance
from hwprune.errors import UsageError
from hwprune.importance import Criterion, available, describe, descriptions, registry
from hwprune.importance.description import ORIGINS


@pytest.mark.parametrize("name", available())
def test_every_criterion_describes_itself(name: str) -> None:
    found = describe(name)
    assert found.name == name
    assert found.data_need in get_args(registry.DataNeed)
    assert found.comparability in get_args(registry.Comparability)
    assert found.origin in ORIGINS and set(ORIGINS) == set(get_args(registry.Origin))
    assert found.summary.endswith(".") and found.formula and found.cost
    assert "\n" not in found.formula + found.cost + found.paper
    assert bool(found.paper) == (found.origin != "none")
    # Where the paper itself could not be read, whoever reads the class is told so.
    text = " ".join((registry.find(name).__doc__ or "").split())
    assert ("our reading of the abstract" in text.lower()) == (found.origin == "abstract")


def test_all_registered_classes_are_exported() -> None:
    for name in available():
        criterion = registry.find(name)
        assert getattr(importance, criterion.__name__) is criterion
        assert criterion.__name__ in importance.__all__


def test_parameters_come_with_their_defaults() -> None:
    assert dict(describe("taylor2019").parameters)["form"] == "consumers"
    with pytest.raises(UsageError, match="did you mean l1"):
        describe("l11")


def test_a_criterion_of_a_user_needs_no_description() -> None:
    class Own(Criterion):
        name: ClassVar[str] = "own"
        data_need: ClassVar[registry.DataNeed] = "none"
        comparability: ClassVar[registry.Comparability] = "global"
        paper: ClassVar[str] = ""

        def score(self, captured, deps, data, *, loss):  # type: ignore[no-untyped-def]
            return {}

    found = describe(Own)
    assert (found.summary, found.formula, found.origin) == ("", "", "none")


def test_descriptions_are_json() -> None:
    found = json.loads(json.dumps([each.as_dict() for each in descriptions()]))
    assert [each["name"] for each in found] == list(available())


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, hwprune; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
