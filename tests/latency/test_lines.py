"""Lines of a table found without parsing, against a table that is parsed whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hwprune.latency.lines as lines_module
from hwprune.errors import TableError
from hwprune.latency.choice import Choice, ChoiceTable, Searched
from hwprune.latency.lines import Lines, read_buffer
from hwprune.latency.rows import Row, row_to_csv, table_to_csv
from tests.latency.made import timed
from tests.measure.fakes import conv

WHERE = Path("somewhere/table.csv")
ROWS = [
    replace(timed(conv(8 + i), 100.0 + i)[0], sweep=f"{i % 3:08x}", note='a "remark", with commas' * (i % 2))
    for i in range(40)
]
BY_DIGEST = {row.digest: row for row in ROWS}


def lines_of(rows: list[Row]) -> Lines:
    return Lines(table_to_csv(rows).encode(), WHERE, "ns")


def test_every_row_is_found_and_no_other():
    lines = lines_of(ROWS)
    assert len(lines) == 40
    assert [lines.row(i).digest for i in range(40)] == sorted(BY_DIGEST)
    for digest, row in BY_DIGEST.items():
        place = lines.find(digest)
        assert place is not None
        assert lines.row(place) == row
    for wrong in ("0" * 16, "f" * 16, "", ROWS[0].digest[:-1], ROWS[0].digest + "0"):
        assert lines.find(wrong) is None
    assert lines.sweeps() == {"00000000", "00000001", "00000002"}
    empty = lines_of([])
    assert (len(empty), empty.find(ROWS[0].digest), empty.sweeps()) == (0, None, set())


@given(st.sets(st.sampled_from(sorted(BY_DIGEST))), st.sets(st.sampled_from(sorted(BY_DIGEST))))
def test_pieces_between_breaks_are_the_lines_between_them(removed: set[str], breaks: set[str]):
    """Merging by copying pieces gives what sorting all rows gives."""
    lines = lines_of(ROWS).without(removed | breaks)
    assert len(lines) == len(ROWS) - len(removed | breaks)
    assert all(lines.find(digest) is None for digest in removed)

    def merged() -> Iterator[bytes]:
        pieces = lines.runs(sorted(breaks))
        yield next(pieces)
        for digest, piece in zip(sorted(breaks), pieces, strict=True):
            yield row_to_csv(BY_DIGEST[digest]).encode() + b"\n"
            yield piece

    expected = [row for digest, row in BY_DIGEST.items() if digest in breaks or digest not in removed]
    assert table_to_csv([]).encode() + b"".join(merged()) == table_to_csv(expected).encode()


def test_rows_of_other_forms_than_the_chosen_ones_are_left_out():
    winograd, direct = Choice.of("winograd", tile=4), Choice.of("direct", rows=2)
    specs = [conv(8 + i) for i in range(4)]
    forms = ["default", winograd.label(), winograd.label(), "default"]
    rows = [replace(timed(spec)[0], choice=form) for spec, form in zip(specs, forms, strict=True)]
    choices = ChoiceTable()
    choices.put(specs[1], Searched("kept", winograd))
    choices.put(specs[2], Searched("chosen anew", direct))
    choices.put(specs[3], Searched("chosen since", direct))
    choices.put(conv(99), Searched("not in the table", direct))
    kept = lines_of(rows).current(choices)
    assert {kept.row(i).digest for i in range(len(kept))} == {specs[0].digest(), specs[1].digest()}
    assert len(lines_of(rows).current(ChoiceTable())) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (table_to_csv(ROWS)[:-1], "the last line is cut short"),
        (table_to_csv(ROWS).replace(",ns,", ",cycles,", 1), r"mixes units: kernel .* is in cycles"),
        (table_to_csv([*ROWS, ROWS[5]]), f"has kernel {ROWS[5].digest}.*twice"),
        ("\n".join(table_to_csv(ROWS).splitlines()[::-1]) + "\n", "unknown columns"),
        ("", "unknown columns"),
        (table_to_csv(ROWS).replace("digest", "digits", 1), "unknown columns"),
    ],
)
def test_what_no_writer_writes_is_refused(text: str, message: str):
    with pytest.raises(TableError, match=message):
        Lines(text.encode(), WHERE, "ns")


def test_disorder_and_malformed_lines_are_named():
    header, one, two, three, *_ = table_to_csv(ROWS).splitlines()
    with pytest.raises(TableError, match="not sorted after"):
        Lines("\n".join([header, one, three, two, ""]).encode(), WHERE, "ns")
    short = "\n".join([header, one, ",".join(two.split(",")[:9]), ""])
    lines = Lines(short.encode(), WHERE, "ns")
    assert lines.row(0).digest < two[:16]
    with pytest.raises(TableError, match=r"table\.csv line 3: 9 cells instead of"):
        lines.row(1)
    # Too short even for the first cells: found when the file is opened.
    for cut in (0, 5, 16, 19, 27):
        with pytest.raises(TableError):
            Lines("\n".join([header, one, two[:cut], ""]).encode(), WHERE, "ns")


def test_line_ends_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch):
    text = table_to_csv(ROWS).encode()
    expected = [place for place, byte in enumerate(text) if byte == ord("\n")]
    for block in (1, 7, 100, len(text)):
        monkeypatch.setattr(lines_module, "_BLOCK", block)
        assert lines_module._line_ends(np.frombuffer(text, np.uint8)).tolist() == expected


def test_large_files_are_mapped_and_survive_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "table.csv"
    path.write_text(table_to_csv(ROWS))
    monkeypatch.setattr(lines_module, "MAPPED_BYTES", 10)
    data = read_buffer(path)
    assert not isinstance(data, bytes)
    lines = Lines(data, path, "ns")
    other = tmp_path / "other"
    other.write_text("x")
    other.replace(path)
    assert [lines.row(i) for i in range(40)] == [BY_DIGEST[digest] for digest in sorted(BY_DIGEST)]
