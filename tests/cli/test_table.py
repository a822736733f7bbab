"""hwprune table show, diff, verify, merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from hwprune.cli import app
from hwprune.latency.table import LatencyTable
from hwprune.measure.toolchain import toolchain_directory
from hwprune.target import load_target
from tests.cli.conftest import Command, Ran
from tests.latency.made import MANIFEST, failed, sweep, timed, write
from tests.measure.fakes import conv, linear

VERBS = ("show", "diff", "verify", "merge")


@pytest.fixture
def tables(tmp_path: Path) -> tuple[str, str]:
    one = [timed(conv(8), 100.0), timed(conv(16), 200.0), timed(linear(3, 3)), failed(conv(24), "it hung")]
    two = [timed(conv(8), 150.0, day=9), timed(conv(16), 200.0), timed(conv(32), 1.0, status="untrusted")]
    write(tmp_path / "one", one, sweep(1))
    write(tmp_path / "two", two, sweep(2))
    return "one", "two"


def one_object(ran: Ran) -> dict[str, Any]:
    found, end = json.JSONDecoder().raw_decode(ran.out)
    assert ran.out[end:] == "\n"
    return found


def test_help(hw: Command):
    assert " table " in hw("--help").out
    commands = typer.main.get_command(app).commands["table"].commands  # type: ignore[attr-defined]
    assert set(commands) == set(VERBS)
    for verb in VERBS:
        ran = hw("table", verb, "--help")
        assert ran.code == 0
        assert "--json" in ran.out
        assert commands[verb].help
        for parameter in commands[verb].params:
            assert parameter.help or parameter.name == "help", f"{verb} {parameter.name} has no help"


def test_show(hw: Command, tables: tuple[str, str]):
    found = one_object(hw("table", "show", tables[0], "--json"))
    assert (found["table"], found["shipped"], found["rows"]) == ("one", False, 4)
    assert found["statuses"] == {"ok": 3, "failed": 1}
    assert found["families"] == {"conv2d+relu": 3, "linear": 1}
    assert found["failures"] == {conv(24).label(): "it hung"}
    assert found["sweeps"] == {"00000001": {"ok": 3, "untrusted": 0, "failed": 1}}
    assert found["worst_interval"]["relative_width"] == pytest.approx(0.035)
    assert found["manifest"]["sweeps"][0]["command"] == "sweep 1"
    text = hw("table", "show", tables[0]).out
    for words in ("Some CPU", "0123456789ab", "3 ok", "it hung", "conv2d+relu", "00000001", "measured, ns"):
        assert words in text
    empty = write(Path("empty"), [])
    assert one_object(hw("table", "show", str(empty), "--json"))["worst_interval"] is None
    assert "never" in hw("table", "show", str(empty)).out


def test_diff(hw: Command, tables: tuple[str, str]):
    found = one_object(hw("table", "diff", *tables, "--json"))
    summary = found["summary"]
    assert (summary["only_first"], summary["only_second"], summary["compared"]) == (2, 1, 2)
    assert (summary["max_abs"], summary["beyond_both"]) == (pytest.approx(0.5), 1)
    assert found["only_second"] == {conv(32).digest(): conv(32).label()}
    text = hw("table", "diff", *tables).out
    for words in ("only in the first: 2", "largest 50.00%", "+50.0%", "beyond both"):
        assert words in text
    assert hw("table", "diff", tables[0], tables[0]).code == 0


def test_verify(hw: Command, tables: tuple[str, str]):
    assert one_object(hw("table", "verify", tables[0], "--json"))["good"] is True
    ran = hw("table", "verify", tables[0])
    assert (ran.code, ran.err) == (0, "")
    assert "4 rows, 3 of them with raw samples: good" in ran.out
    csv = Path(tables[0]) / "table.csv"
    csv.write_bytes(csv.read_bytes()[:-4])
    ran = hw("table", "verify", tables[0])
    assert ran.code == 1
    assert "NOT GOOD" in ran.out
    assert "truncated or edited" in ran.err
    assert "must not be relied on: 1 problems" in ran.err
    ran = hw("table", "verify", tables[0], "--json")
    assert ran.code == 1
    assert one_object(ran)["problems"]


def test_merge(hw: Command, tables: tuple[str, str]):
    found = one_object(hw("table", "merge", *tables, "-o", "out", "--json"))
    assert (found["table"], found["rows"], found["taken"]) == ("out", 5, [3, 2])
    assert LatencyTable.load(Path("out")).lookup(conv(8)).median == pytest.approx(150.0)
    assert hw("table", "verify", "out").code == 0
    assert hw("table", "merge", *tables, "-o", "first", "--prefer", "first").code == 0
    assert LatencyTable.load(Path("first")).lookup(conv(8)).median == pytest.approx(100.0)
    ran = hw("table", "merge", *tables, "-o", tables[1])
    assert ran.code == 0
    assert "5 rows in two" in ran.out
    assert hw("table", "verify", tables[1]).code == 0


def test_refusals(hw: Command, tables: tuple[str, str]):
    for arguments, code, needle in [
        (("show", "nowhere"), 2, "neither the directory of a table nor a target"),
        (("show", "."), 1, "no latency table at"),
        (("verify", "host"), 1, "no latency table at"),
        (("merge", *tables, "-o", "x", "--prefer", "best"), 2, "unknown preference 'best'"),
    ]:
        ran = hw("table", *arguments)
        assert ran.code == code, ran.err
        assert needle in ran.err
        assert "what to do" in ran.err
    other = MANIFEST.model_copy(update={"pipeline": "feedfeed"})
    write(Path("foreign"), [timed(conv(8))], other)
    ran = hw("table", "merge", tables[0], "foreign", "-o", "x")
    assert ran.code == 1
    assert "pipeline: 0123456789ab and feedfeed" in ran.err
    assert not Path("x").exists()


def test_a_target_stands_for_its_table_of_this_machine(hw: Command, tmp_path: Path):
    for number, place in enumerate((None, tmp_path / "mine")):
        directory = toolchain_directory(load_target("host"), place)
        write(directory, [timed(conv(8 + i)) for i in range(number + 1)])
    assert one_object(hw("table", "show", "host", "--json"))["rows"] == 1
    found = one_object(hw("table", "show", "host", "--tables", str(tmp_path / "mine"), "--json"))
    assert found["rows"] == 2
    assert "-t1" in found["table"]
