"""Raw samples beside a table: what is kept, what a kill leaves, what damage looks like."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hwprune.measure.table_writer as table_writer
from hwprune.errors import MeasureError, TableError
from hwprune.latency.manifest import read_manifest
from hwprune.latency.samples import SAMPLES_NAME, SampleFile, Samples, decode, encode, entries
from hwprune.latency.table import LatencyTable
from hwprune.latency.verify import verify
from hwprune.measure.table_writer import TableWriter
from tests.latency.made import MANIFEST, failed, sweep, timed, write
from tests.measure.fakes import conv, linear

SPECS = [conv(8), conv(16), conv(24), linear(10, 64)]
ROWS = [timed(spec, 1000.0 / 3 + i) for i, spec in enumerate(SPECS)]


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=40),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
def test_records_are_exact(values: list[float], about: dict[str, int]):
    samples = Samples(tuple(values), about)
    data = encode(ROWS[0][0], samples)
    (entry,) = entries(data, Path("x"), bodies=True)
    assert (entry.digest, entry.start, entry.end) == (SPECS[0].digest(), 0, len(data))
    assert decode(data, entry, Path("x")) == samples


def test_samples_are_found_by_row_before_and_after_compaction(tmp_path: Path):
    write(tmp_path, ROWS, compact=False)
    for _ in range(2):
        kept = SampleFile(tmp_path)
        for row in LatencyTable.load(tmp_path):
            expected = next(s for r, s in ROWS if r.digest == row.digest)
            assert kept.of(row) == expected
        write(tmp_path, [])
        with TableWriter(tmp_path, MANIFEST) as writer:
            writer.compact()
    assert read_manifest(tmp_path).samples is not None


def test_compaction_keeps_the_newest_timing_of_each_kernel(tmp_path: Path):
    write(tmp_path, ROWS)
    again = timed(SPECS[1], 777.0, day=2)
    retaken = replace(ROWS[2][0], status="untrusted", note="the machine was busy")
    gone = failed(SPECS[3], day=2)
    write(tmp_path, [again, (retaken, None), gone], sweep(1))
    kept = SampleFile(tmp_path)
    assert [e.digest for e in kept.entries] == [SPECS[0].digest(), SPECS[2].digest(), SPECS[1].digest()]
    table = LatencyTable.load(tmp_path)
    assert kept.of(table.lookup(SPECS[1])) == again[1]
    # A row that is only called untrusted is still the same timing.
    assert kept.of(table.lookup(SPECS[2], untrusted=True)) == ROWS[2][1]
    assert kept.of(table.get(SPECS[3])) is None  # type: ignore[arg-type]
    assert verify(tmp_path).good


def test_a_row_goes_with_its_own_samples_when_the_newer_row_was_lost(tmp_path: Path):
    """Killed between the two: the record of the second timing is there, its row is not."""
    write(tmp_path, ROWS[:1])
    newer = timed(SPECS[0], 500.0)
    with (tmp_path / SAMPLES_NAME).open("ab") as file:
        file.write(encode(*newer))  # type: ignore[arg-type]
        file.write(encode(*ROWS[1])[:-1])  # type: ignore[arg-type]
    row = LatencyTable.load(tmp_path).lookup(SPECS[0])
    assert SampleFile(tmp_path).of(row) == ROWS[0][1]
    assert verify(tmp_path).good
    write(tmp_path, [ROWS[2]], sweep(1))
    assert [e.digest for e in SampleFile(tmp_path).entries] == [SPECS[0].digest(), SPECS[2].digest()]
    assert SampleFile(tmp_path).of(row) == ROWS[0][1]
    assert verify(tmp_path).good


def test_torn_at_every_byte(tmp_path: Path):
    data = b"".join(encode(row, samples) for row, samples in ROWS[:3] if samples)
    ends = [entry.end for entry in entries(data, tmp_path)]
    for cut in range(len(data) + 1):
        whole = [e.end for e in entries(data[:cut], tmp_path, bodies=True)]
        assert whole == [end for end in ends if end <= cut]


def test_every_changed_byte_is_noticed(tmp_path: Path):
    path = write(tmp_path, ROWS[:1]) / SAMPLES_NAME
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        found = verify(tmp_path)
        assert not found.good, place
        assert any("samples.bin" in problem for problem in found.problems)
    path.write_bytes(data[: len(data) // 2])
    assert not verify(tmp_path).good
    path.write_bytes(data)
    assert verify(tmp_path).good


def test_a_record_that_was_changed_is_refused_and_others_are_not(tmp_path: Path):
    path = write(tmp_path, ROWS[:2]) / SAMPLES_NAME
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    kept = SampleFile(tmp_path)
    last, first = kept.entries[-1], kept.entries[0]
    rows = {row.digest: row for row, _ in ROWS}
    with pytest.raises(TableError, match=r"samples\.bin is damaged at byte \d+"):
        kept.of(rows[last.digest])
    assert kept.of(rows[first.digest]) is not None


def test_a_sweep_does_not_go_on_after_a_truncation_that_no_kill_causes(tmp_path: Path):
    path = write(tmp_path, ROWS) / SAMPLES_NAME
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TableError, match=r"samples\.bin was truncated.*\n.*delete it"):
        TableWriter(tmp_path, sweep(1))
    # What the message says helps: statistics stay, new rows get samples again.
    path.unlink()
    assert not verify(tmp_path).good
    write(tmp_path, [timed(conv(40))], sweep(2))
    found = verify(tmp_path)
    assert found.good
    assert (found.rows, found.rows_with_samples) == (5, 1)
    assert found.remarks == ["4 timed rows have no raw samples"]


class Crash(BaseException):
    pass


def test_every_crash_point_of_compaction_leaves_rows_with_their_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    start = write(tmp_path / "start", ROWS[:3])
    write(start, [timed(SPECS[0], 99.0, day=3), ROWS[3]], sweep(1), compact=False)

    def compact(directory: Path, limit: int | None) -> int:
        steps = 0
        real = {name: getattr(table_writer, name) for name in ("write_json", "atomic_write_chunks")}

        def guard(function: object):
            def step(*arguments: object, **options: object) -> object:
                nonlocal steps
                steps += 1
                if limit is not None and steps > limit:
                    raise Crash
                return function(*arguments, **options)  # type: ignore[operator]

            return step

        with monkeypatch.context() as patch, TableWriter(directory, sweep(2)) as writer:
            for name, function in real.items():
                patch.setattr(table_writer, name, guard(function))
            patch.setattr(Path, "unlink", guard(Path.unlink))
            writer.compact()
        return steps

    total = compact(shutil.copytree(start, tmp_path / "whole"), None)
    assert total >= 5
    for limit in range(total):
        directory = shutil.copytree(start, tmp_path / f"crash-{limit}")
        with pytest.raises(Crash):
            compact(directory, limit)
        found = verify(directory)
        assert (found.problems, found.rows, found.rows_with_samples) == ([], 4, 4)
        compact(directory, None)
        for name in ("table.csv", SAMPLES_NAME):
            assert (directory / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        assert verify(directory).good


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path):
    """What was appended before is there, and the same table can be continued."""

    class Full:
        def __init__(self, file: object) -> None:
            self._file = file

        def write(self, data: bytes) -> int:
            return self._file.write(data[:20])  # type: ignore[attr-defined]

        def close(self) -> None:
            self._file.close()  # type: ignore[attr-defined]

    with TableWriter(tmp_path, MANIFEST) as writer:
        writer.append(*ROWS[0])
        for name, file in writer._files.items():
            writer._files[name] = Full(file)  # type: ignore[assignment]
        with pytest.raises(MeasureError, match="disk is full"):
            writer.append(*ROWS[1])
    assert verify(tmp_path).good
    write(tmp_path, [ROWS[2]], sweep(1))
    found = verify(tmp_path)
    assert (found.good, found.rows, found.rows_with_samples) == (True, 2, 2)
