import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hwprune.errors import MeasureError, PipelineMismatchError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.table import LatencyTable
from hwprune.measure.build import BuildPool
from hwprune.measure.outcome import ProfileReport
from hwprune.measure.profile import profile
from hwprune.measure.rotation import copies_for, sentinel_spec
from hwprune.measure.runners.local import LocalRunner
from hwprune.measure.sentinel import SENTINEL_TIMINGS
from tests.measure import fakes
from tests.measure.fakes import IMPATIENT, QUIET, TARGET, InlineBuilder, InlineRunner, conv, fake_seconds

SPECS = [conv(w) for w in range(8, 56, 4)]


def run(
    directory: Path,
    specs: list[KernelSpec] = SPECS,
    builder: InlineBuilder | None = None,
    runner: InlineRunner | None = None,
    **options: object,
) -> ProfileReport:
    builder, runner = builder or InlineBuilder(), runner or InlineRunner()
    options = {"profile": QUIET, "pipeline": "abc", "batch": 5, **options}
    return profile(specs, TARGET, directory, builder=builder, runner=runner, **options)  # type: ignore[arg-type]


def digests(specs: list[KernelSpec]) -> set[str]:
    return {s.digest() for s in specs}


def keys(directory: Path) -> set[str]:
    return {row.digest for row in LatencyTable.load(directory)}


def test_sweep_fills_the_table(tmp_path: Path):
    calls: list[tuple[int, int, str]] = []
    report = run(tmp_path, [*SPECS, conv(8)], progress=lambda *a: calls.append(a))
    assert (report.requested, report.skipped, report.measured, report.untrusted) == (12, 0, 12, 0)
    assert not report.failures
    table = LatencyTable.load(tmp_path, pipeline="abc")
    assert keys(tmp_path) == digests([*SPECS, sentinel_spec()])
    for spec in SPECS:
        row = table.lookup(spec)
        assert row.median == pytest.approx(fake_seconds(spec) * 1e9)
        assert row.copies == copies_for(spec)
        assert row.samples == 4
    building = [c for c in calls if c[2].startswith("building")]
    assert building == [
        (0, 12, "building 5 kernels"),
        (5, 12, "building 5 kernels"),
        (10, 12, "building 2 kernels"),
    ]
    kernels = [c for c in calls if c not in building]
    assert [c[:2] for c in kernels] == [(i, 12) for i in range(1, 13)]
    assert {c[2] for c in kernels} == {s.label() for s in SPECS}
    assert table.manifest.provenance == "measured"
    assert {p.name for p in tmp_path.iterdir()} == {"table.csv", "samples.bin", "manifest.json", ".lock"}


def test_what_is_there_is_not_measured_again(tmp_path: Path):
    run(tmp_path, SPECS[:4])
    before = (tmp_path / "table.csv").read_bytes()
    builder, runner = InlineBuilder(), InlineRunner()
    report = run(tmp_path, SPECS[:4], builder, runner)
    assert (report.skipped, report.measured) == (4, 0)
    assert builder.built == runner.timed == []
    assert (tmp_path / "table.csv").read_bytes() == before
    report = run(tmp_path, SPECS, builder, runner)
    assert (report.skipped, report.measured) == (4, 8)
    assert set(builder.built) == digests([*SPECS[4:], sentinel_spec()])


def test_building_and_timing_never_overlap(tmp_path: Path):
    events: list[str] = []

    class Builder(InlineBuilder):
        def build(self, jobs):  # type: ignore[no-untyped-def]
            for result in super().build(jobs):
                events.append("build")
                yield result

    class Runner(InlineRunner):
        def measure(self, library, profile):  # type: ignore[no-untyped-def]
            events.append("time")
            return super().measure(library, profile)

    run(tmp_path, SPECS, Builder(), Runner())
    phases = [e for i, e in enumerate(events) if i == 0 or events[i - 1] != e]
    assert phases == ["build", "time"] * 4  # the sentinel, then three batches of at most five


def test_order_is_random_but_seeded(tmp_path: Path):
    def order(seed: int, name: str) -> list[str]:
        runner = InlineRunner()
        run(tmp_path / name, SPECS, runner=runner, seed=seed)
        return [d for d in runner.timed if d != sentinel_spec().digest()]

    one, same, other = order(1, "a"), order(1, "b"), order(2, "c")
    assert one == same
    assert one != other
    assert one != [s.digest() for s in SPECS]
    assert sorted(one) == sorted(other)


def test_bad_kernels_become_failed_rows_and_are_tried_again(tmp_path: Path):
    bad = [conv(fakes.BROKEN_BUILD), conv(fakes.CRASHING_RUN)]
    report = run(tmp_path, [*SPECS[:3], *bad])
    assert report.measured == 3
    assert set(report.failures) == digests(bad)
    assert "no such schedule" in report.failures[bad[0].digest()]
    table = LatencyTable.load(tmp_path)
    assert str(table.get(bad[0]).status) == "failed:ValueError: no such schedule"  # type: ignore[union-attr]
    assert "SIGSEGV" in table.get(bad[1]).status  # type: ignore[union-attr]
    builder = InlineBuilder()
    run(tmp_path, [*SPECS[:3], *bad], builder)
    assert bad[1].digest() in builder.built
    assert SPECS[0].digest() not in builder.built


def bent(spec_factor: Callable[[int], float]) -> InlineRunner:
    """A machine whose speed changes with the number of timings done."""
    return InlineRunner(lambda spec, n: spec_factor(n))


def test_drift_makes_the_batch_untrusted(tmp_path: Path):
    # From the timing after the first batch's sentinel on, everything takes 30 % longer.
    slow_from = SENTINEL_TIMINGS + 5 + 1 + 1
    report = run(tmp_path, SPECS[:10], runner=bent(lambda n: 1.3 if n >= slow_from else 1.0), retries=0)
    assert report.untrusted == 5
    assert "drifted by +30%" in report.warnings[-1]
    statuses = [r.status for r in LatencyTable.load(tmp_path) if r.digest != sentinel_spec().digest()]
    assert sorted(statuses) == ["ok"] * 5 + ["untrusted"] * 5
    # On a machine that is quiet again they are measured again, and only they.
    runner = InlineRunner()
    report = run(tmp_path, SPECS[:10], runner=runner)
    assert (report.skipped, report.measured) == (5, 5)
    assert {r.status for r in LatencyTable.load(tmp_path)} == {"ok"}


def test_a_short_disturbance_is_repaired_by_timing_the_batch_again(tmp_path: Path):
    first = range(SENTINEL_TIMINGS + 1, SENTINEL_TIMINGS + 7)
    report = run(tmp_path, SPECS[:5], runner=bent(lambda n: 1.5 if n in first else 1.0))
    assert (report.measured, report.untrusted) == (5, 0)
    table = LatencyTable.load(tmp_path)
    for spec in SPECS[:5]:
        assert table.lookup(spec).median == pytest.approx(fake_seconds(spec) * 1e9)


def test_ten_percent_is_the_limit_of_drift(tmp_path: Path):
    later = SENTINEL_TIMINGS + 1
    assert run(tmp_path / "a", SPECS[:5], runner=bent(lambda n: 1.09 if n >= later else 1.0)).untrusted == 0
    slower = bent(lambda n: 1.11 if n >= later else 1.0)
    assert run(tmp_path / "b", SPECS[:5], runner=slower, retries=0).untrusted == 5
    faster = bent(lambda n: 0.89 if n >= later else 1.0)
    assert run(tmp_path / "c", SPECS[:5], runner=faster, retries=0).untrusted == 5


def test_a_machine_that_got_faster_discredits_what_was_timed_before(tmp_path: Path):
    # The reference and the first batch were timed on a slow machine; it recovers during the second.
    fast_from = SENTINEL_TIMINGS + 5 + 1 + 3
    report = run(tmp_path, SPECS[:10], runner=bent(lambda n: 1.0 if n >= fast_from else 1.4), seed=4)
    assert report.untrusted == 5
    assert "drifted by -29% since" in report.warnings[-1]
    table = LatencyTable.load(tmp_path)
    trusted = [r for r in table if r.status == "ok"]
    assert len(trusted) == 6  # the second batch, timed again, and the sentinel
    for row in trusted:
        assert row.median == pytest.approx(fake_seconds(row.kernel) * 1e9)
    report = run(tmp_path, SPECS[:10])
    assert (report.skipped, report.measured, report.untrusted) == (5, 5, 0)
    for spec in SPECS[:10]:
        assert LatencyTable.load(tmp_path).lookup(spec).median == pytest.approx(fake_seconds(spec) * 1e9)


def test_a_sentinel_timed_in_unrest_is_not_kept_as_reference(tmp_path: Path):
    busy = bent(lambda n: 2.0)
    busy.foreign_ticks = 50
    assert run(tmp_path, SPECS[:5], runner=busy).untrusted == 5
    report = run(tmp_path, SPECS[:5])
    assert (report.measured, report.untrusted) == (5, 0)
    assert {r.status for r in LatencyTable.load(tmp_path)} == {"ok"}


def test_other_processes_make_the_batch_untrusted(tmp_path: Path):
    runner = InlineRunner()
    runner.foreign_ticks = 40
    report = run(tmp_path / "a", SPECS[:5], runner=runner)
    assert report.untrusted == 5
    assert "other processes 40%" in report.warnings[-1]
    runner = InlineRunner()
    runner.cpu_share = 0.5
    report = run(tmp_path / "b", SPECS[:5], runner=runner)
    assert "did not get their cores" in report.warnings[-1]


def test_nothing_can_be_built(tmp_path: Path):
    class NoCompiler(InlineBuilder):
        def build(self, jobs):  # type: ignore[no-untyped-def]
            for job in jobs:
                yield job, "CompileError: no linker"

    with pytest.raises(MeasureError, match=r"no kernel can be built.*no linker"):
        run(tmp_path, SPECS, NoCompiler())
    assert keys(tmp_path) == set()
    run(tmp_path, SPECS)


def test_another_pipeline_is_refused(tmp_path: Path):
    run(tmp_path, SPECS[:2])
    with pytest.raises(PipelineMismatchError):
        run(tmp_path, SPECS[:2], pipeline="def")


@pytest.mark.parametrize("at", [0, 1, 6, 11])
def test_interrupt_keeps_what_was_measured_and_resumes(tmp_path: Path, at: int):
    def progress(done: int, total: int, label: str) -> None:
        if done > at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="run the same command to go on"):
        run(tmp_path, SPECS, progress=progress)
    assert len(keys(tmp_path) & digests(SPECS)) == at + 1
    assert {p.name for p in tmp_path.iterdir()} == {"table.csv", "samples.bin", "manifest.json", ".lock"}
    report = run(tmp_path, SPECS)
    assert report.skipped == at + 1
    run(tmp_path / "whole", SPECS)
    assert keys(tmp_path) == keys(tmp_path / "whole")


SCRIPT = """
import sys, time
from pathlib import Path
from tests.measure.test_profile import SPECS, run
def progress(done, total, label):
    print(done, flush=True)
    time.sleep(0.05)
run(Path(sys.argv[1]), SPECS, progress=progress)
"""


@pytest.mark.parametrize("after", [1, 7])
def test_kill_and_resume_equals_an_uninterrupted_sweep(tmp_path: Path, after: int):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == after:
                process.send_signal(signal.SIGKILL)
                break
    survived = keys(tmp_path / "killed")
    assert len(survived & digests(SPECS)) >= after
    assert any(p.name.startswith(".build-") for p in (tmp_path / "killed").iterdir())
    report = run(tmp_path / "killed", SPECS)
    assert report.skipped >= after
    run(tmp_path / "whole", SPECS)
    assert keys(tmp_path / "killed") == keys(tmp_path / "whole")
    assert {p.name for p in (tmp_path / "killed").iterdir()} == {
        "table.csv",
        "samples.bin",
        "manifest.json",
        ".lock",
    }


def test_with_real_processes(tmp_path: Path):
    bad = [conv(w) for w in (fakes.CRASHING_BUILD, fakes.CRASHING_RUN, fakes.HANGING_RUN)]
    specs = [*SPECS[:4], *bad]
    builder = BuildPool(TARGET, function="tests.measure.fakes:fake_build", processes=2)
    runner = LocalRunner(1, engine="tests.measure.fakes:FakeEngine")
    try:
        report = profile(
            specs,
            TARGET,
            tmp_path,
            builder=builder,
            runner=runner,
            pipeline="abc",
            profile=IMPATIENT,
            retries=0,
        )
    finally:
        builder.close()
        runner.close()
    assert report.measured == 4
    assert set(report.failures) == digests(bad)
    table = LatencyTable.load(tmp_path)
    for spec in SPECS[:4]:
        assert table.lookup(spec, untrusted=True).median == pytest.approx(fake_seconds(spec) * 1e9)
    assert "did not answer" in table.get(bad[2]).status  # type: ignore[union-attr]
    device = json.loads((tmp_path / "manifest.json").read_text())["payload"]["device"]
    assert device["cores"] == len(os.sched_getaffinity(0))
