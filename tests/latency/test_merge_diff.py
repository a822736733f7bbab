"""Two tables compared, and put together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hwprune.errors import ArtifactError, MeasureError, PipelineMismatchError, TableError
from hwprune.latency.choice import Choice, ChoiceTable, Searched
from hwprune.latency.diff import diff
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.manifest import read_manifest
from hwprune.latency.samples import SampleFile
from hwprune.latency.table import LatencyTable
from hwprune.latency.verify import verify
from hwprune.measure import merging
from hwprune.measure.merging import merge_tables
from hwprune.measure.table_writer import TableWriter
from tests.latency.made import MANIFEST, Timed, failed, sweep, timed, write
from tests.measure.fakes import conv, linear

A, B, C, D, E = conv(8), conv(16), conv(24), linear(10, 64), conv(40)
WINOGRAD, DIRECT = Choice.of("winograd", tile=4), Choice.of("direct", rows=2)


def choose(directory: Path, day: int, **choices: tuple[KernelSpec, Choice | None]) -> None:
    table = ChoiceTable({}, {"searched by": directory.name})
    for label, (spec, choice) in choices.items():
        table.put(spec, Searched(label, choice, measured_at=f"2026-01-{day:02d}T00:00:00+00:00"))
    table.save(directory)


def medians(directory: Path) -> dict[str, float]:
    return {row.digest: round(row.median, 6) for row in LatencyTable.load(directory)}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A: both, newer in the second. B: untrusted and newer in the second. C, D, E: in one each."""
    first = [timed(A, 100.0), timed(B, 200.0), timed(C, 300.0), failed(D)]
    second = [timed(A, 110.0, day=5), timed(B, 999.0, day=5, status="untrusted"), timed(D, 400.0), failed(E)]
    return write(tmp_path / "one", first, sweep(1)), write(tmp_path / "two", second, sweep(2))


def test_merge(two: tuple[Path, Path], tmp_path: Path):
    out = tmp_path / "out"
    report = merge_tables(*two, out)
    table = LatencyTable.load(out)
    assert medians(out) == {
        A.digest(): 110.0,
        B.digest(): 200.0,
        C.digest(): 300.0,
        D.digest(): 400.0,
        E.digest(): 0.0,
    }
    assert (report.rows, report.taken, report.left_out, report.records) == (5, [2, 3], [2, 1], 4)
    assert verify(out).problems == []
    samples = SampleFile(out)
    assert samples.of(table.lookup(A)) == timed(A, 110.0, day=5)[1]
    assert samples.of(table.lookup(C)) == timed(C, 300.0)[1]
    manifest = read_manifest(out)
    assert [s.id for s in manifest.sweeps] == ["00000001", "00000002"]
    assert {table.lookup(C).sweep, table.lookup(D).sweep} == {"00000001", "00000002"}
    assert manifest.merges[0].sources == tuple(read_manifest(d).sha256 for d in two)
    assert manifest.created == "2026-01-02T00:00:00+00:00"
    # The other way round gives the same rows, and the table can be continued.
    merge_tables(two[1], two[0], tmp_path / "back")
    assert (tmp_path / "back" / "table.csv").read_bytes() == (out / "table.csv").read_bytes()
    write(out, [timed(E, 5.0, day=7)], sweep(3))
    assert verify(out).problems == []
    assert len(read_manifest(out).sweeps) == 3


def test_preferences(two: tuple[Path, Path], tmp_path: Path):
    merge_tables(*two, tmp_path / "first", prefer="first")
    merge_tables(*two, tmp_path / "second", prefer="second")
    assert medians(tmp_path / "first")[A.digest()] == 100.0
    assert medians(tmp_path / "second")[A.digest()] == 110.0
    # Preferred or not: a trusted row goes before an untrusted one, any time before a failure.
    assert medians(tmp_path / "second")[B.digest()] == 200.0
    assert medians(tmp_path / "first")[D.digest()] == 400.0


def test_merging_into_one_of_the_two_keeps_what_else_lies_there(two: tuple[Path, Path], tmp_path: Path):
    one, other = two
    (one / "tuning" / "x").mkdir(parents=True)
    (one / "tuning" / "x" / "trials.json").write_text("{}")
    (one / ".build-gone").mkdir()
    for place in two:
        (place / "notes.txt").write_text(place.name)
    merge_tables(one, other, tmp_path / "new")
    assert (tmp_path / "new" / "notes.txt").read_text() == "one"
    assert (tmp_path / "new" / "tuning" / "x" / "trials.json").exists()
    merge_tables(one, other, other)
    assert (other / "notes.txt").read_text() == "two"
    assert (other / "tuning" / "x" / "trials.json").exists()
    merge_tables(one, other, one)
    assert (one / "table.csv").read_bytes() == (tmp_path / "new" / "table.csv").read_bytes()
    assert (one / "tuning" / "x" / "trials.json").read_text() == "{}"
    assert not (one / ".build-gone").exists()
    assert verify(one).problems == []
    # Merging the same once more changes no row.
    before = (one / "table.csv").read_bytes()
    merge_tables(one, other, one)
    assert (one / "table.csv").read_bytes() == before


def test_rows_still_in_the_journal_take_part(two: tuple[Path, Path], tmp_path: Path):
    write(two[0], [timed(E, 7.0, day=9)], sweep(3), compact=False)
    merge_tables(*two, tmp_path / "out")
    assert medians(tmp_path / "out")[E.digest()] == 7.0
    assert verify(tmp_path / "out").problems == []


@pytest.mark.parametrize(
    ("changes", "message", "kind"),
    [
        ({"pipeline": "ffff"}, "pipeline: 0123456789ab and ffff", PipelineMismatchError),
        ({"device": {"slug": "other-cpu"}}, "device: some-cpu-2c and other-cpu", TableError),
        ({"provenance": "emulated"}, "kind: measured and emulated", TableError),
        ({"target": {**MANIFEST.target, "threads": 2}}, "target threads: 1 and 2", TableError),
        ({"target": {**MANIFEST.target, "name": "x"}}, "target name: test and x", TableError),
    ],
)
def test_tables_that_do_not_belong_together(
    tmp_path: Path, changes: dict[str, object], message: str, kind: type[TableError]
):
    one = write(tmp_path / "one", [timed(A)])
    other = write(tmp_path / "two", [timed(B)], MANIFEST.model_copy(update=changes))
    with pytest.raises(kind, match=message):
        merge_tables(one, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_unit_is_refused_everywhere(tmp_path: Path):
    cycles = MANIFEST.model_copy(update={"unit": "cycles", "provenance": "simulated"})
    one = write(tmp_path / "one", [timed(A)])
    other = write(tmp_path / "two", [timed(A, unit="cycles")], cycles)
    with pytest.raises(TableError, match="unit: ns and cycles"):
        merge_tables(one, other, tmp_path / "out")
    with pytest.raises(TableError, match=r"in ns, .* in cycles"):
        diff(LatencyTable.load(one), LatencyTable.load(other, unit="cycles"))
    # A row in another unit never gets into a table either.
    with TableWriter(one, MANIFEST) as writer, pytest.raises(TableError, match="cycles"):
        writer.append(*timed(B, unit="cycles"))
    assert verify(one).good


def test_a_third_directory_is_not_replaced(two: tuple[Path, Path], tmp_path: Path):
    third = write(tmp_path / "three", [timed(E)])
    before = (third / "table.csv").read_bytes()
    with pytest.raises(TableError, match="neither of the two"):
        merge_tables(*two, third)
    assert (third / "table.csv").read_bytes() == before
    with TableWriter(two[0], MANIFEST), pytest.raises(MeasureError, match="being written by process"):
        merge_tables(*two, two[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError):
        merge_tables(*two, tmp_path / "file" / "x")


class TestChoices:
    def prepare(self, two: tuple[Path, Path], forms: Callable[[int], Choice | None]) -> None:
        for number, directory in enumerate(two):
            choose(directory, 1 + number, b=(B, forms(number)))
            form = forms(number)
            label = form.label() if form else "default"
            write(directory, [timed(B, 50.0 + number, day=3 + number, choice=label)], sweep(4 + number))

    def test_the_same_choices_agree(self, two: tuple[Path, Path], tmp_path: Path):
        self.prepare(two, lambda number: WINOGRAD)
        merge_tables(*two, tmp_path / "out")
        merged = ChoiceTable.load(tmp_path / "out")
        assert merged.get(B) == WINOGRAD
        assert merged.entry(B).measured_at.startswith("2026-01-02")  # type: ignore[union-attr]
        assert merged.provenance == {"searched by": "one", "merged_with": {"searched by": "two"}}
        assert medians(tmp_path / "out")[B.digest()] == 51.0

    @pytest.mark.parametrize("other", [DIRECT, None])
    def test_different_choices_are_refused_by_name(
        self, two: tuple[Path, Path], tmp_path: Path, other: Choice | None
    ):
        self.prepare(two, lambda number: other if number else WINOGRAD)
        with pytest.raises(TableError, match=r"1 kernels: b: winograd tile=4 and .*\n.*--prefer first"):
            merge_tables(*two, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        # The user decides; rows in the other form are stale, however new they are.
        report = merge_tables(*two, tmp_path / "out", prefer="first")
        assert ChoiceTable.load(tmp_path / "out").get(B) == WINOGRAD
        assert medians(tmp_path / "out")[B.digest()] == 50.0
        assert report.left_out == [1, 2]
        merge_tables(*two, tmp_path / "other", prefer="second")
        assert ChoiceTable.load(tmp_path / "other").get(B) == other
        assert verify(tmp_path / "out").problems == verify(tmp_path / "other").problems == []

    def test_a_choice_goes_before_none(self, two: tuple[Path, Path], tmp_path: Path):
        choose(two[1], 2, a=(A, WINOGRAD))  # its own row of A was timed before the search
        merge_tables(*two, tmp_path / "out")
        assert ChoiceTable.load(tmp_path / "out").get(A) == WINOGRAD
        assert A.digest() not in medians(tmp_path / "out")


def test_nothing_changes_when_a_merge_fails(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> None:
        raise OSError(28, "no space left")

    before = {p.name: p.read_bytes() for p in two[0].iterdir() if p.name != ".lock"}
    with monkeypatch.context() as patch:
        patch.setattr(merging, "write_json", broken)
        with pytest.raises(ArtifactError, match="cannot be written"):
            merge_tables(*two, two[0])
    assert {p.name: p.read_bytes() for p in two[0].iterdir() if p.name != ".lock"} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def tables_of(tmp_path: Path, first: list[Timed], second: list[Timed]) -> tuple[LatencyTable, LatencyTable]:
    one, two = write(tmp_path / "one", first), write(tmp_path / "two", second, sweep(2))
    return LatencyTable.load(one), LatencyTable.load(two)


def test_the_distribution_of_differences(tmp_path: Path):
    # From -10 % to +10 % in steps of 1 %. Intervals reach from 0.985 to 1.02 of the median.
    widths = range(101)
    first = [timed(conv(100 + w), 1000.0) for w in widths]
    second = [timed(conv(100 + w), 900.0 + 2 * w) for w in widths]
    found = diff(*tables_of(tmp_path, first, second))
    summary = found.summary()
    assert summary["compared"] == 101
    assert summary["median"] == pytest.approx(0.0)
    assert summary["p5"] == pytest.approx(-0.09)
    assert summary["p95"] == pytest.approx(0.09)
    assert summary["max_abs"] == pytest.approx(0.1)
    assert summary["median_abs"] == pytest.approx(0.05)
    # Each median outside the other's interval: m < 985 and 1000 > 1.02 m, or m > 1020 and 1000 < 0.985 m.
    medians = [900.0 + 2 * w for w in widths]
    beyond = sum(m < min(985, 1000 / 1.02) or m > max(1020, 1000 / 0.985) for m in medians)
    assert summary["beyond_both"] == beyond
    assert summary["beyond_both_share"] == pytest.approx(beyond / 101)
    assert [d.relative for d in found.largest(2)] == pytest.approx([-0.1, 0.1]) or [
        d.relative for d in found.largest(2)
    ] == pytest.approx([0.1, -0.1])
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_rows_that_cannot_be_compared_are_counted(tmp_path: Path):
    first = [timed(A, 100.0), timed(B), timed(C), timed(E), timed(linear(3, 3))]
    second = [timed(A, 150.0, status="untrusted"), failed(B), timed(C, 300.0), timed(D), timed(linear(3, 3))]
    one, two = tables_of(tmp_path, first, second)
    choose(one.directory, 1, c=(C, WINOGRAD))
    write(one.directory, [timed(C, choice=WINOGRAD.label())])
    one = LatencyTable.load(one.directory)
    found = diff(one, two)
    assert found.only_first == {E.digest(): E.label()}
    assert found.only_second == {D.digest(): D.label()}
    assert (found.untrusted, found.failed, found.other_choice) == (1, 1, 1)
    assert [d.relative for d in found.compared] == [0.0]
    asked = diff(one, two, untrusted=True)
    assert max(d.relative for d in asked.compared) == pytest.approx(0.5)
    nothing = diff(one, LatencyTable.load(write(tmp_path / "none", []))).summary()
    assert (nothing["compared"], nothing["median"], nothing["only_first"]) == (0, None, 5)


def test_cores_that_a_process_may_use_keep_no_rows_apart():
    def with_options(**options: object) -> list[str]:
        tvm = {**MANIFEST.target.get("tvm", {}), **options}
        return MANIFEST.differences(MANIFEST.model_copy(update={"target": {**MANIFEST.target, "tvm": tvm}}))

    assert with_options(**{"num-cores": 7}) == []
    assert any("target tvm" in line for line in with_options(mcpu="another"))
