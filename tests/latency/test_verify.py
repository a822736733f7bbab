"""Everything that can be wrong with a table is found, each with a message of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hwprune.artifact import read_json, sha256_file, write_json
from hwprune.latency.choice import Choice, ChoiceTable, Searched
from hwprune.latency.manifest import MANIFEST_KIND, MANIFEST_VERSION
from hwprune.latency.rows import Row, table_to_csv
from hwprune.latency.table import LatencyTable
from hwprune.latency.verify import verify
from hwprune.measure.table_writer import TableWriter
from tests.latency.made import failed, sweep, timed, write
from tests.measure.fakes import conv, linear

ROWS = [timed(conv(8)), timed(conv(16), 2000.0), timed(linear(10, 64), 30.0), failed(conv(24))]


def forge(directory: Path, change: Callable[[Row], Row]) -> None:
    """Change rows and make the checksum right, as somebody would who knows the format."""
    rows = [change(row) for row in LatencyTable.load(directory)]
    (directory / "table.csv").write_text(table_to_csv(rows))
    manifest = read_json(directory / "manifest.json", MANIFEST_KIND, MANIFEST_VERSION)
    manifest["sha256"] = sha256_file(directory / "table.csv")
    write_json(directory / "manifest.json", MANIFEST_KIND, MANIFEST_VERSION, manifest)


def test_a_good_table(tmp_path: Path):
    found = verify(write(tmp_path, ROWS))
    assert (found.good, found.rows, found.rows_with_samples, found.sample_records) == (True, 4, 3, 3)
    assert found.remarks == []


def test_a_table_that_is_being_written_is_good(tmp_path: Path):
    write(tmp_path, ROWS[:2])
    with TableWriter(tmp_path, sweep(7)) as writer:
        writer.append(*ROWS[2])
        found = verify(tmp_path)
    assert (found.problems, found.rows) == ([], 3)
    assert found.remarks == ["sweep 00000007 of 2026-01-08T00:00:00+00:00 was cut off or is still running"]


def only(row: Row, **changes: object) -> Row:
    return replace(row, **changes) if row.digest == conv(16).digest() else row  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"median": 1900.0, "minimum": 1.0}, "samples of .*are of another timing"),
        ({"measured_at": "2026-01-02T12:00:00+00:00"}, "samples of .*are of another timing"),
        ({"minimum": 1.0}, "samples of .*minimum"),
        ({"mean": 2001.0}, "samples of .*mean"),
        ({"samples": 12}, "11 are kept, the row says 12"),
        ({"spec": conv(17).canonical()}, f"digest {conv(17).digest()}, the row says"),
        ({"spec": "{}"}, "cannot be read"),
        ({"spec": conv(16).canonical().replace(":", ": ", 1)}, "not in canonical form"),
        ({"label": "something else"}, "its spec is 'conv2d"),
        ({"sweep": "feedfeed"}, "no sweep feedfeed"),
        ({"status": "fine"}, "unknown status 'fine'"),
        ({"status": "failed:x"}, "failed and has a time"),
        ({"ci_low": 5000.0}, "contradict each other"),
        ({"ci_high": float("nan")}, "not a positive number"),
        ({"mean": float("inf")}, "not a positive number"),
    ],
)
def test_forged_rows(tmp_path: Path, changes: dict[str, object], message: str):
    write(tmp_path, ROWS)
    forge(tmp_path, lambda row: only(row, **changes))
    problems = verify(tmp_path).problems
    assert problems
    assert re.search(message, "\n".join(problems)), problems


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("table.csv", lambda data: data[:-9], "truncated or edited"),
        ("table.csv", lambda data: data.replace(b"2000.0", b"1000.0", 1), "truncated or edited"),
        ("manifest.json", lambda data: data.replace(b"Some CPU", b"Fast CPU"), "edited or damaged"),
        ("manifest.json", lambda data: data[: len(data) // 2], "not valid JSON|truncated"),
        ("journal.csv", lambda data: bytes([data[0] ^ 1]) + data[1:], "journal.csv line 1 is damaged"),
        ("samples.bin", lambda data: b"", "not the file that the manifest describes"),
        ("choices.json", lambda data: data.replace(b"winograd", b"direct"), "edited or damaged"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, change: Callable[[bytes], bytes], message: str):
    write(tmp_path, ROWS)
    choices = ChoiceTable()
    choices.put(conv(99), Searched("x", Choice.of("winograd", tile=4)))
    choices.save(tmp_path)
    write(tmp_path, [timed(conv(32)), timed(conv(40))], sweep(1), compact=False)
    assert verify(tmp_path).good
    path = tmp_path / name
    path.write_bytes(change(path.read_bytes()))
    problems = verify(tmp_path).problems
    assert re.search(message, "\n".join(problems)), problems


def test_rows_of_a_form_that_was_replaced_are_counted_and_no_fault(tmp_path: Path):
    write(tmp_path, ROWS)
    choices = ChoiceTable()
    choices.put(conv(8), Searched("x", Choice.of("winograd", tile=4)))
    choices.save(tmp_path)
    found = verify(tmp_path)
    assert (found.good, found.rows, found.stale) == (True, 4, 1)


def test_many_problems_of_a_kind_are_counted(tmp_path: Path):
    write(tmp_path, [timed(conv(8 + i)) for i in range(30)])
    forge(tmp_path, lambda row: replace(row, label="wrong"))
    problems = verify(tmp_path).problems
    assert len(problems) == 21
    assert problems[-1] == "10 more problems of this kind: row"


def test_nothing_there(tmp_path: Path):
    assert "no latency table at" in verify(tmp_path / "nowhere").problems[0]
