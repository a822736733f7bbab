"""The verbs ``carry pack`` and ``carry read``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hwprune.cli import app
from hwprune.errors import TableError, UsageError
from hwprune.measure.carry.record import record
from hwprune.measure.carry.results import open_carried

NET = ["tests.small:Small", "-i", "1x1x8x8"]


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_read_says_what_came_back(measured: Path, tmp_path: Path):
    data = json.loads(run("carry", "read", str(measured), "--tables", str(tmp_path), "--json"))
    assert data["device"] in data["table"] and data["table"].startswith(str(tmp_path))
    assert data["networks_ns"].keys() == {"dense", "plan"} and data["missing"] == []
    assert ["float16" in reason for reason in data["failures"].values()] == [True]
    text = run("carry", "read", str(measured), "--tables", str(tmp_path))
    assert f"--device {data['device']}" in text and "network plan" in text


def test_nothing_is_packed_where_nothing_is_missing(measured: Path, tmp_path: Path):
    report = record(open_carried(measured), tmp_path)
    # The table holds fewer widths than a plan would ask for by default; these are packed, no others.
    options = [*NET, "--device", report.device, "--missing", "--tables", str(tmp_path), "--minimum", "1"]
    out = str(tmp_path / "next")
    text = run("carry", "pack", *options, "-o", out)
    assert "no bundle is needed" in text and not Path(out).exists()


def test_options_that_contradict_each_other(tmp_path: Path):
    with pytest.raises(UsageError, match="--missing needs to know of which device"):
        run("carry", "pack", *NET, "--missing", "-o", str(tmp_path / "b"))
    with pytest.raises(TableError, match="no table of device nowhere"):
        run("carry", "pack", *NET, "--device", "nowhere", "--tables", str(tmp_path))
    with pytest.raises(UsageError, match="cannot be reached"):
        run("plan", *NET, "--device", "nowhere", "--rpc", "localhost:9", "--tables", str(tmp_path))
