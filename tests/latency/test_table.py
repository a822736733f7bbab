import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import hwprune.measure.table_writer as table_writer
from hwprune.artifact import sha256_file, write_json
from hwprune.errors import KernelMissError, MeasureError, PipelineMismatchError, TableError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.location import find_table, table_directory, tables_root
from hwprune.latency.manifest import (
    MANIFEST_KIND,
    MANIFEST_VERSION,
    SweepRecord,
    TableManifest,
    read_manifest,
)
from hwprune.latency.rows import COLUMNS, Row, journal_line, read_journal, table_to_csv
from hwprune.latency.table import LatencyTable
from hwprune.latency.verify import verify
from hwprune.measure.table_writer import TableWriter
from tests.latency.made import timed
from tests.measure.fakes import TARGET, conv, linear

SWEEP = SweepRecord(
    id="0a0a0a0a",
    command="hwprune profile",
    git=None,
    versions={"numpy": "2"},
    seed=0,
    profile={},
    started="2026-01-01T00:00:00+00:00",
)
MANIFEST = TableManifest(
    target=TARGET.model_dump(mode="json"),
    target_string="llvm",
    device={"slug": "some-cpu-2c", "cpu": "Some CPU"},
    system="Linux",
    pipeline="0123456789ab",
    unit="ns",
    provenance="measured",
    created="2026-01-01T00:00:00+00:00",
    updated="2026-01-01T00:00:00+00:00",
    sweeps=(SWEEP,),
)


def row(spec: KernelSpec, median: float = 1234.567890123, status: str = "ok", unit: str = "ns") -> Row:
    return Row(
        digest=spec.digest(),
        label=spec.label(),
        spec=spec.canonical(),
        unit=unit,
        median=median,
        ci_low=median * 0.99,
        ci_high=median * 1.01,
        minimum=median / 3,
        mean=median + 0.1,
        samples=17,
        status=status,
        copies=12,
        measured_at="2026-01-01T00:00:00+00:00",
        sweep=SWEEP.id,
    )


def write(directory: Path, rows: list[Row], *, compact: bool = True) -> Path:
    with TableWriter(directory, MANIFEST) as writer:
        for r in rows:
            writer.append(r)
        if compact:
            writer.compact()
    return directory


SPECS = [conv(8), conv(16), conv(24), linear(10, 64), conv(16, stride=2)]
ROWS = [row(spec, 1000.0 / 3 + i) for i, spec in enumerate(SPECS)]


@pytest.mark.parametrize("compact", [True, False])
def test_round_trip_is_exact(tmp_path: Path, compact: bool):
    write(tmp_path, ROWS, compact=compact)
    table = LatencyTable.load(tmp_path, pipeline="0123456789ab", unit="ns", device="some-cpu-2c")
    assert sorted(table, key=lambda r: r.digest) == sorted(ROWS, key=lambda r: r.digest)
    assert len(table) == 5
    assert table.lookup(conv(16)) == ROWS[1]
    assert table.get(conv(99)) is None
    assert table.lookup(conv(24)).kernel == conv(24)
    assert (tmp_path / "journal.csv").exists() != compact


def test_csv_is_sorted_with_one_row_a_line(tmp_path: Path):
    odd = replace(row(conv(40)), status='failed:a "quoted", reason', median=0.0)
    write(tmp_path, [*ROWS, odd])
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 7
    digests = [line.split(",")[0] for line in lines[1:]]
    assert digests == sorted(digests)
    assert LatencyTable.load(tmp_path).get(conv(40)) == odd
    other = tmp_path / "other"
    write(other, [odd, *reversed(ROWS)])
    assert (other / "table.csv").read_bytes() == (tmp_path / "table.csv").read_bytes()


def test_later_rows_replace_earlier_ones(tmp_path: Path):
    write(tmp_path, ROWS)
    write(tmp_path, [row(conv(8), 5.0)], compact=False)
    assert LatencyTable.load(tmp_path).lookup(conv(8)).median == 5.0
    write(tmp_path, [row(conv(8), 6.0)])
    assert len(LatencyTable.load(tmp_path)) == 5
    assert LatencyTable.load(tmp_path).lookup(conv(8)).median == 6.0


def test_missing(tmp_path: Path):
    with pytest.raises(TableError, match=r"no latency table at .*\n.*hwprune profile"):
        LatencyTable.load(tmp_path / "nowhere")
    write(tmp_path, ROWS)
    (tmp_path / "table.csv").unlink()
    with pytest.raises(TableError, match=r"table\.csv cannot be read"):
        LatencyTable.load(tmp_path)


def test_every_truncation_of_the_csv_is_noticed(tmp_path: Path):
    path = write(tmp_path, ROWS[:1]) / "table.csv"
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        with pytest.raises(TableError, match=r"table\.csv"):
            LatencyTable.load(tmp_path)


def test_edits_are_noticed(tmp_path: Path):
    path = write(tmp_path, ROWS) / "table.csv"
    path.write_text(path.read_text().replace("333.333", "133.333", 1))
    with pytest.raises(TableError, match="truncated or edited"):
        LatencyTable.load(tmp_path)
    write(tmp_path / "b", ROWS)
    path = tmp_path / "b" / "manifest.json"
    path.write_text(path.read_text().replace("Some CPU", "Fast CPU"))
    with pytest.raises(TableError, match=r"manifest\.json"):
        LatencyTable.load(tmp_path / "b")
    path.write_text(path.read_text()[:100])
    with pytest.raises(TableError, match=r"manifest\.json"):
        LatencyTable.load(tmp_path / "b")


def resign(directory: Path, rows_text: str, **changes: object) -> None:
    """Forge a table.csv whose checksum is right."""
    (directory / "table.csv").write_text(rows_text)
    manifest = read_manifest(directory).model_dump(mode="json")
    manifest |= {"sha256": sha256_file(directory / "table.csv"), **changes}
    write_json(directory / "manifest.json", MANIFEST_KIND, MANIFEST_VERSION, manifest)


def test_mixed_units_duplicates_and_foreign_columns(tmp_path: Path):
    write(tmp_path, ROWS)
    resign(tmp_path, table_to_csv([*ROWS[1:], row(conv(8), unit="cycles")]))
    with pytest.raises(TableError, match=r"mixes units.*cycles"):
        LatencyTable.load(tmp_path)
    resign(tmp_path, table_to_csv([*ROWS, ROWS[2]]))
    with pytest.raises(TableError, match="twice"):
        LatencyTable.load(tmp_path)
    resign(tmp_path, "digest,median\n")
    with pytest.raises(TableError, match="unknown columns"):
        LatencyTable.load(tmp_path)
    resign(tmp_path, table_to_csv(ROWS).replace(",17,", ",many,"))
    with pytest.raises(TableError, match="line 2"):
        list(LatencyTable.load(tmp_path))
    resign(tmp_path, table_to_csv(ROWS), surprise=1)
    with pytest.raises(TableError, match="surprise"):
        LatencyTable.load(tmp_path)


def test_wrong_pipeline_unit_and_device(tmp_path: Path):
    write(tmp_path, ROWS)
    with pytest.raises(PipelineMismatchError, match=r"0123456789ab.*ffff"):
        LatencyTable.load(tmp_path, pipeline="ffff")
    with pytest.raises(TableError, match=r"is in ns \(measured\), cycles was asked"):
        LatencyTable.load(tmp_path, unit="cycles")
    with pytest.raises(TableError, match="some-cpu-2c, this device is other-cpu"):
        LatencyTable.load(tmp_path, device="other-cpu")
    with pytest.raises(PipelineMismatchError):
        TableWriter(tmp_path, MANIFEST.model_copy(update={"pipeline": "ffff"}))
    # a refused writer has let go of the lock
    TableWriter(tmp_path, MANIFEST).close()


def test_a_miss_names_the_kernel_and_its_neighbours(tmp_path: Path):
    table = LatencyTable.load(write(tmp_path, [*ROWS, row(conv(20), status="failed:crash")]))
    with pytest.raises(KernelMissError) as caught:
        table.lookup(conv(18))
    text = str(caught.value)
    assert conv(18).label() in text
    assert [r.label for r in table.nearest(conv(18))] == [conv(w).label() for w in (16, 24, 8)]
    assert text.index(conv(16).label()) < text.index(conv(24).label())
    assert "linear" not in text.split("nearest")[1]
    # a failed kernel is no neighbour, another stride a distant one
    assert table.nearest(conv(18), count=9)[-1] == ROWS[4]
    assert row(conv(20)).label not in [r.label for r in table.nearest(conv(18), count=9)]
    with pytest.raises(KernelMissError, match="no kernel has the same operators"):
        LatencyTable.load(write(tmp_path / "e", [])).lookup(conv(18))


def test_untrusted_and_failed_rows_are_refused_unless_asked(tmp_path: Path):
    rows = [row(conv(8), status="untrusted"), row(conv(16), status="failed:worker died")]
    table = LatencyTable.load(write(tmp_path, rows))
    with pytest.raises(KernelMissError, match="untrusted"):
        table.lookup(conv(8))
    assert table.lookup(conv(8), untrusted=True) == rows[0]
    for untrusted in (False, True):
        with pytest.raises(KernelMissError, match="worker died"):
            table.lookup(conv(16), untrusted=untrusted)


def test_journal_torn_at_every_byte(tmp_path: Path):
    data = b"".join(map(journal_line, ROWS[:3]))
    ends = [len(b"".join(map(journal_line, ROWS[:n]))) for n in range(4)]
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in ends) - 1
        rows, good = read_journal(data[:cut], tmp_path)
        assert rows == ROWS[:whole]
        assert good == ends[whole]


def test_a_torn_journal_is_continued(tmp_path: Path):
    write(tmp_path, ROWS[:1])
    line = journal_line(ROWS[1])
    for cut in (1, 9, len(line) // 2, len(line) - 1):
        (tmp_path / "journal.csv").write_bytes(journal_line(ROWS[2]) + line[:cut])
        assert len(LatencyTable.load(tmp_path)) == 2
        write(tmp_path, [ROWS[3]], compact=False)
        table = LatencyTable.load(tmp_path)
        assert {r.digest for r in table} == {ROWS[i].digest for i in (0, 2, 3)}


def test_damage_inside_the_journal_is_refused(tmp_path: Path):
    write(tmp_path, ROWS[:3], compact=False)
    path = tmp_path / "journal.csv"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(TableError, match="line 1 is damaged"):
        LatencyTable.load(tmp_path)


class Crash(BaseException):
    pass


def test_every_crash_point_of_compaction_leaves_a_whole_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    start = write(tmp_path / "start", ROWS[:2])
    write(start, ROWS[2:4], compact=False)
    steps: list[str] = []

    def guard(name: str, function: object, limit: int | None):
        def step(*args: object, **kwargs: object) -> object:
            steps.append(name)
            if limit is not None and len(steps) > limit:
                raise Crash
            return function(*args, **kwargs)  # type: ignore[operator]

        return step

    def compact(directory: Path, limit: int | None) -> None:
        steps.clear()
        with monkeypatch.context() as patch, TableWriter(directory, MANIFEST) as writer:
            for name in ("write_json", "atomic_write_chunks"):
                patch.setattr(table_writer, name, guard(name, getattr(table_writer, name), limit))
            patch.setattr(Path, "unlink", guard("unlink", Path.unlink, limit))
            writer.compact()

    compact(shutil.copytree(start, tmp_path / "count"), None)
    total = len(steps)
    assert total >= 4
    expected = {r.digest for r in ROWS[:4]}
    for first in range(total):
        directory = shutil.copytree(start, tmp_path / f"crash-{first}")
        with pytest.raises(Crash):
            compact(directory, first)
        assert {r.digest for r in LatencyTable.load(directory)} == expected
        # And a second sweep that crashes anywhere after adding a row.
        for second in range(total):
            again = shutil.copytree(directory, tmp_path / f"crash-{first}-{second}")
            write(again, [ROWS[4]], compact=False)
            with pytest.raises(Crash):
                compact(again, second)
            assert len(LatencyTable.load(again)) == 5
            write(again, [])
            assert len(LatencyTable.load(again)) == 5
            assert not (again / "journal.csv").exists()
            assert read_manifest(again).next_sha256 is None


def test_a_table_whose_creation_was_cut_off_is_begun_anew(tmp_path: Path):
    (tmp_path / "table.csv").write_text("digest,lab")
    (tmp_path / "journal.csv").write_bytes(journal_line(ROWS[0]))
    assert len(LatencyTable.load(write(tmp_path, ROWS[1:3]))) == 2


def test_manifest_says_where_the_numbers_come_from(tmp_path: Path):
    payload = json.loads((write(tmp_path, ROWS) / "manifest.json").read_text())["payload"]
    assert payload["sha256"] == sha256_file(tmp_path / "table.csv")
    assert payload["target"]["name"] == "test"
    assert payload["created"] == MANIFEST.created
    assert payload["updated"] > MANIFEST.updated


def test_one_writer_at_a_time(tmp_path: Path):
    with TableWriter(tmp_path, MANIFEST), pytest.raises(MeasureError, match=r"process \d+"):
        TableWriter(tmp_path, MANIFEST)
    (tmp_path / ".lock").write_text("999999\n")  # of a process that is gone
    write(tmp_path, ROWS)


def test_unwritable_place(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MeasureError, match="HWPRUNE_TABLES"):
        TableWriter(tmp_path / "file" / "table", MANIFEST)


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HWPRUNE_TABLES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert tables_root() == tmp_path / "cache" / "hwprune" / "latency_tables"
    monkeypatch.setenv("HWPRUNE_TABLES", str(tmp_path / "mine"))
    directory = table_directory(TARGET, "0123", "cpu-2c")
    assert directory == tmp_path / "mine" / "test" / "cpu-2c-0123-t1"
    assert find_table(TARGET, "0123", "cpu-2c") is None
    write(directory, ROWS)
    assert find_table(TARGET, "0123", "cpu-2c") == directory
    assert find_table(TARGET.model_copy(update={"threads": 2}), "0123", "cpu-2c") is None
    monkeypatch.setenv("HWPRUNE_TABLES", str(tmp_path / "empty"))
    monkeypatch.setattr("hwprune.latency.location.shipped_root", lambda: tmp_path / "mine")
    assert find_table(TARGET, "0123", "cpu-2c") == directory


def test_a_table_of_an_older_version_is_refused_with_what_to_do(tmp_path: Path):
    write(tmp_path, ROWS)
    payload = json.loads((tmp_path / "manifest.json").read_text())["payload"]
    write_json(tmp_path / "manifest.json", MANIFEST_KIND, MANIFEST_VERSION - 1, payload)
    with pytest.raises(TableError, match=r"version 1, older than version 2.*\n.*delete .*profile again"):
        LatencyTable.load(tmp_path)
    with pytest.raises(TableError, match="version 1"):
        TableWriter(tmp_path, MANIFEST)


def test_readers_see_whole_tables_while_a_sweep_writes(tmp_path: Path):
    """Never fewer rows than before, never an error, whatever the writer is doing at that moment."""
    write(tmp_path, ROWS[:1])
    stop = threading.Event()
    errors: list[BaseException] = []
    counts: list[int] = []

    def read() -> None:
        try:
            while not stop.is_set():
                table = LatencyTable.load(tmp_path)
                counts.append(len(list(table)))
                assert verify(tmp_path).problems == []
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    total = 1
    for number in range(12):
        rows = [timed(conv(100 + 3 * number + i)) for i in range(3)]
        with TableWriter(tmp_path, MANIFEST) as writer:
            for r, samples in rows:
                writer.append(r, samples)
            writer.append(*timed(SPECS[0], 50.0 + number))
            writer.compact()
        total += 3
    stop.set()
    reader.join()
    assert errors == []
    assert counts == sorted(counts)
    assert len(LatencyTable.load(tmp_path)) == total
