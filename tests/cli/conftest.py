"""The command line inside this process, and a made-up device for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from hwprune.cli import main

torch.set_num_threads(1)


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture
def hw(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs ``hwprune ARGUMENTS`` in ``tmp_path``, as the console script would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWPRUNE_TABLES", str(tmp_path / ".tables"))
    monkeypatch.setattr(sys, "path", [str(Path(__file__).resolve().parents[2]), *sys.path])

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["hwprune", *arguments])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        assert code is None or isinstance(code, int)
        return Ran(code or 0, captured.out, captured.err)

    return run
