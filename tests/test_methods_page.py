"""The page of methods is what criteria and repairs say of themselves."""

from __future__ import annotations

import difflib
from importlib import import_module

import pytest

from docs.entries import REPAIRS, WIDTHS, Entry
from docs.methods import PAGE, main, page
from hwprune.importance import available, descriptions
from hwprune.importance.description import ORIGINS


def test_the_page_and_the_registry_agree() -> None:
    found, wanted = PAGE.read_text(encoding="utf-8"), page()
    difference = "\n".join(difflib.unified_diff(found.splitlines(), wanted.splitlines(), lineterm="", n=0))
    assert found == wanted, f"run python -m docs.methods:\n{difference}"
    assert main(["--check"]) == 0


def test_the_page_says_whose_method_everything_is() -> None:
    text = page()
    for each in descriptions():
        block = text.split(f"### {each.name}\n")[1].split("\n### ")[0]
        assert ORIGINS[each.origin] in block
        assert ("our reading of the abstract" in block.lower()) == (each.origin == "abstract")
        assert f"Data: {each.data_need}" in block
    assert set(available()) <= {line[4:] for line in text.splitlines() if line.startswith("### ")}


@pytest.mark.parametrize("entry", [*REPAIRS, *WIDTHS], ids=lambda e: e.description.name)
def test_what_is_on_the_page_exists(entry: Entry) -> None:
    module, _, name = entry.where.partition(":")
    assert callable(getattr(import_module(module), name))
    assert entry.description.origin in ORIGINS and entry.description.formula
    assert f"### {entry.description.name}\n" in page()


def test_a_page_that_differs_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    elsewhere = tmp_path / "methods.md"
    monkeypatch.setattr("docs.methods.PAGE", elsewhere)
    assert main(["--check"]) == 1
    assert main([]) == 0 and main(["--check"]) == 0
    elsewhere.write_text(elsewhere.read_text() + "more\n")
    assert main(["--check"]) == 1
