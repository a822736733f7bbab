"""Tables that come with the package: found, used, and copied before anything is added."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hwprune.errors import MeasureError
from hwprune.latency.choice import Choice, ChoiceTable, Searched
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.location import find_table, is_shipped, shipped_root, table_directory
from hwprune.latency.samples import SampleFile
from hwprune.latency.table import LatencyTable
from hwprune.latency.verify import verify
from hwprune.measure.device import device_slug
from hwprune.measure.profile import profile
from hwprune.measure.search import search
from hwprune.measure.sweep import ProfileReport
from hwprune.measure.table_writer import TableWriter
from hwprune.measure.toolchain import own_directory
from tests.latency.made import MANIFEST
from tests.measure.fakes import QUIET, TARGET, InlineBuilder, InlineRunner, conv

SPECS = [conv(w) for w in (8, 16, 24)]
PIPELINE = "abcabcabcabc"


def run(directory: Path, specs: list[KernelSpec]) -> ProfileReport:
    return profile(
        specs,
        TARGET,
        directory,
        builder=InlineBuilder(),
        runner=InlineRunner(),
        profile=QUIET,
        pipeline=PIPELINE,
    )


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a table for this machine, and a user without tables."""
    monkeypatch.setenv("HWPRUNE_TABLES", str(tmp_path / "made"))
    directory = table_directory(TARGET, PIPELINE, device_slug())
    run(directory, SPECS)
    choices = ChoiceTable()
    choices.put(conv(99), Searched("x", Choice("tuned", trace='{"a": 1}')))
    choices.save(directory)
    (directory / ".lock").unlink()
    root = tmp_path / "package"
    shutil.move(tmp_path / "made", root)
    monkeypatch.setenv("HWPRUNE_TABLES", str(tmp_path / "own"))
    for module in ("latency.location", "measure.toolchain"):
        monkeypatch.setattr(f"hwprune.{module}.shipped_root", lambda: root)
    return root / directory.relative_to(tmp_path / "made")


def test_found_where_device_pipeline_and_threads_agree(shipped: Path):
    slug = device_slug()
    assert find_table(TARGET, PIPELINE, slug) == shipped
    assert is_shipped(shipped)
    assert find_table(TARGET, "otherpipeline", slug) is None
    assert find_table(TARGET, PIPELINE, "other-device") is None
    assert find_table(TARGET.model_copy(update={"threads": 2}), PIPELINE, slug) is None


def test_a_sweep_with_nothing_to_add_uses_it_as_it_is(shipped: Path, tmp_path: Path):
    before = tree(tmp_path / "package")
    report = run(shipped, SPECS[:2])
    assert (report.directory, report.requested, report.skipped) == (shipped, 2, 2)
    assert tree(tmp_path / "package") == before
    assert not (tmp_path / "own").exists()


def test_a_sweep_that_needs_more_copies_it_first(shipped: Path, tmp_path: Path):
    before = tree(tmp_path / "package")
    report = run(shipped, [*SPECS, conv(32)])
    own = table_directory(TARGET, PIPELINE, device_slug())
    assert report.directory == own
    assert (report.skipped, report.measured) == (3, 1)
    assert tree(tmp_path / "package") == before
    table, old = LatencyTable.load(own), LatencyTable.load(shipped)
    assert all(table.lookup(spec) == old.lookup(spec) for spec in SPECS)
    assert SampleFile(own).of(table.lookup(SPECS[0])) == SampleFile(shipped).of(old.lookup(SPECS[0]))
    assert ChoiceTable.load(own).get(conv(99)) == ChoiceTable.load(shipped).get(conv(99))
    assert verify(own).good
    assert table.manifest.sweeps[0].id == old.manifest.sweeps[0].id
    assert len(table.manifest.sweeps) == 2
    # From now on the user's own goes first, and is not copied again.
    assert find_table(TARGET, PIPELINE, device_slug()) == own
    assert run(shipped, [*SPECS, conv(32), conv(40)]).skipped == 4
    assert len(LatencyTable.load(own)) == len(table) + 1


def test_a_copy_that_was_cut_off_is_made_anew(shipped: Path):
    own = own_directory(shipped)
    whole = tree(own)
    (own / "manifest.json").unlink()
    (own / "table.csv").write_text("digest")
    assert own_directory(shipped) == own
    assert tree(own) == whole


def test_a_search_copies_it_as_well(shipped: Path, tmp_path: Path):
    before = tree(tmp_path / "package")
    search(
        [conv(8)],
        TARGET,
        shipped,
        builder=InlineBuilder(),
        judge=object(),  # type: ignore[arg-type]
        forms=lambda spec, target: (Choice("direct"),),
        pipeline=PIPELINE,
    )
    assert tree(tmp_path / "package") == before
    assert verify(own_directory(shipped)).good


def test_nothing_is_ever_written_into_the_package(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = tree(tmp_path / "package")
    with pytest.raises(MeasureError, match=r"tables that come with hwprune.*\n.*HWPRUNE_TABLES"):
        TableWriter(shipped, MANIFEST)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "package" / "test")
    with pytest.raises(MeasureError, match="come with hwprune"):
        TableWriter(link / "x", MANIFEST)
    # A new table there becomes one of the user's.
    report = run(tmp_path / "package" / "test" / "new", SPECS)
    assert report.directory == tmp_path / "own" / "test" / "new"
    monkeypatch.setenv("HWPRUNE_TABLES", str(tmp_path / "package"))
    with pytest.raises(MeasureError, match="come with hwprune"):
        run(shipped, [conv(48)])
    assert tree(tmp_path / "package") == before


def test_the_packages_own_directory_is_documented():
    readme = (shipped_root() / "README.md").read_text()
    for name in ("table.csv", "manifest.json", "samples.bin", "choices.json", "journal.csv"):
        assert name in readme
