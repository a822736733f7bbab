"""What a table says of how it was made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hwprune.measure.provenance import command_line

PROGRAM = "from hwprune.measure.provenance import command_line\nprint(command_line())\n"


def called(*arguments: str, folder: Path) -> str:
    found = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env={"PYTHONPATH": f"{Path.cwd()}:{folder}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return found.stdout.strip()


def test_a_command_is_told_without_the_place_of_its_program(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "measuring.py").write_text(PROGRAM)
    script = str(tmp_path / "inside" / "measuring.py")
    assert called(script, "--bound", "2 %", folder=tmp_path) == "measuring.py --bound '2 %'"
    assert called("-m", "inside.measuring", "-x", folder=tmp_path) == "python -m inside.measuring -x"
    (tmp_path / "inside" / "__main__.py").write_text(PROGRAM)
    assert called("-m", "inside", folder=tmp_path) == "python -m inside"


def test_a_program_that_was_installed_has_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/hwprune", "profile", "resnet18"])
    assert command_line() == "hwprune profile resnet18"
