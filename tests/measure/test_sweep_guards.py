"""What a sweep does about kernels and machines that misbehave, and what it writes down about them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hwprune.errors import MeasureError
from hwprune.latency.kernel import KernelInput, KernelOp, KernelSpec
from hwprune.latency.samples import SampleFile
from hwprune.latency.table import LatencyTable
from hwprune.measure.build import BuildJob
from hwprune.measure.conditions import Conditions
from hwprune.measure.rotation import sentinel_spec
from hwprune.measure.sampling import Sampled
from hwprune.measure.sentinel import LISTED, SENTINEL_TIMINGS, Sentinel
from hwprune.measure.stopping import MeasureProfile
from hwprune.measure.values import Verdict
from tests.measure.fakes import InlineRunner, conv, fake_seconds
from tests.measure.test_profile import SPECS, run


class InlineChecker:
    """Says of each kernel what it was told to say."""

    def __init__(self, verdicts: dict[KernelSpec, Verdict] | None = None) -> None:
        self.verdicts = verdicts or {}
        self.checked: list[KernelSpec] = []

    def check(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[BuildJob, Verdict]]:
        for job in reversed(jobs):
            self.checked.append(job.spec)
            yield job, self.verdicts.get(job.spec, Verdict())

    def close(self) -> None: ...


class OddRunner(InlineRunner):
    """Changes what it measures of some kernels, by digest."""

    def __init__(self, changes: dict[KernelSpec, dict[str, object]]) -> None:
        super().__init__()
        self.changes = {spec.digest(): change for spec, change in changes.items()}

    def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
        found = super().measure(library, profile)
        return replace(found, **self.changes.get(self.timed[-1], {}))  # type: ignore[arg-type]


def test_wrong_values_are_reported_and_skipped(tmp_path: Path):
    wrong, unknown = SPECS[3], SPECS[7]
    checker = InlineChecker(
        {wrong: Verdict("returned wrong values: 1 instead of 2"), unknown: Verdict(None, "no idea")}
    )
    runner = InlineRunner()
    report = run(tmp_path, checker=checker, runner=runner)
    assert sorted(map(str, checker.checked)) == sorted(map(str, [*SPECS, sentinel_spec()]))
    assert set(report.failures) == {wrong.digest()}
    assert "1 instead of 2" in report.failures[wrong.digest()]
    assert (report.measured, report.checked) == (len(SPECS) - 1, len(SPECS) - 1)
    assert set(report.unchecked) == {unknown.digest()}
    assert wrong.digest() not in runner.timed
    table = LatencyTable.load(tmp_path)
    assert str(table.get(wrong).status) == "failed:returned wrong values: 1 instead of 2"  # type: ignore[union-attr]
    assert table.lookup(unknown).median > 0
    summary = report.summary()
    assert (summary["failed"], summary["measured"], summary["unchecked"]) == (1, 11, 1)
    assert "1 FAILED" in report.sentence()


def test_a_sentinel_with_wrong_values_ends_the_sweep(tmp_path: Path):
    checker = InlineChecker({sentinel_spec(): Verdict("returned wrong values")})
    with pytest.raises(MeasureError, match="no kernel can be trusted"):
        run(tmp_path, checker=checker)


def test_values_that_are_not_finite_fail_a_kernel(tmp_path: Path):
    flip = (("arguments", "[[],{}]"), ("item", -1), ("shape", (8, 8)), ("target", "aten.log.default"))
    inputs = (KernelInput((1, 8), "data"), KernelInput((8, 8), "weight"))
    imported = KernelSpec(inputs, (KernelOp("fallback", (0, 1), flip),))
    runner = OddRunner({SPECS[0]: {"nonfinite": 3}, imported: {"nonfinite": 3}})
    report = run(tmp_path, [*SPECS[:3], imported], runner=runner)
    assert set(report.failures) == {SPECS[0].digest()}
    assert "3 values that are not finite" in report.failures[SPECS[0].digest()]
    assert LatencyTable.load(tmp_path).lookup(imported).median > 0  # its own business: see aten.log


def test_a_timeout_names_its_criterion_in_the_row(tmp_path: Path):
    why = "2 of 4 samples"
    report = run(tmp_path, runner=OddRunner({SPECS[1]: {"samples_ns": [5.0, 6.0]}}))
    table = LatencyTable.load(tmp_path)
    assert table.lookup(SPECS[1]).note == f"timeout: {why}"
    assert table.lookup(SPECS[2]).note == ""
    assert report.unmet == {SPECS[1].digest(): f"{SPECS[1].label()}: timeout: {why}"}
    assert "1 timed out" in report.sentence()


def test_raw_samples_and_their_outliers_are_kept(tmp_path: Path):
    samples = [100.0, 101.0, 99.0, 100.5, 500.0, 99.5]
    run(tmp_path, SPECS[:3], runner=OddRunner({SPECS[1]: {"samples_ns": samples, "number": 7}}))
    table = LatencyTable.load(tmp_path)
    row = table.lookup(SPECS[1])
    found = SampleFile(tmp_path).of(row)
    assert found is not None
    assert found.values == tuple(samples)
    assert found.about["outliers"] == [4]
    assert [part["number"] for part in found.about["passes"]] == [7]
    assert row.mean == pytest.approx(sum(samples) / 6)  # flagged, not deleted


def test_untrusted_rows_say_why(tmp_path: Path):
    runner = OddRunner({SPECS[1]: {"samples_ns": [5.0]}})
    runner.foreign_ticks = 40
    run(tmp_path, SPECS[:3], runner=runner)
    notes = {row.digest: row.note for row in LatencyTable.load(tmp_path) if row.status == "untrusted"}
    assert notes[SPECS[0].digest()] == "other processes 40%, hypervisor 0%"
    assert notes[SPECS[1].digest()] == "other processes 40%, hypervisor 0%; timeout: 2 of 4 samples"


COOL = Conditions("now", (3000.0,), "performance", 50.0, 0.1, 0, True)


def test_throttling_makes_the_batch_untrusted(tmp_path: Path):
    runner = InlineRunner()
    # before and after the sentinel's timings, then a batch that is throttled, again when it is repeated
    hot = [replace(COOL, throttled=count, temperature_c=98.0) for count in (1, 2, 3)]
    runner.readings = [COOL, COOL, COOL, hot[0], hot[0], hot[1]]
    report = run(tmp_path, SPECS[:5], runner=runner)
    assert report.untrusted == 5
    assert report.warnings[-1] == "5 kernels are untrusted: the processor was throttled 1 times"
    (sweep,) = LatencyTable.load(tmp_path).manifest.sweeps
    assert sweep.conditions["hottest_c"] == 98.0
    assert sweep.conditions["start"]["throttled"] == 0
    assert sweep.conditions["end"]["throttled"] == 2


def test_the_sentinels_history_is_in_the_sweeps_record(tmp_path: Path):
    slower = SENTINEL_TIMINGS + 5 + 1
    run(tmp_path, SPECS[:10], runner=InlineRunner(lambda spec, n: 1.05 if n > slower else 1.0))
    (sweep,) = LatencyTable.load(tmp_path).manifest.sweeps
    sentinel = sweep.conditions["sentinel"]
    ns = fake_seconds(sentinel_spec()) * 1e9
    assert sentinel["reference_ns"] == pytest.approx(ns)
    assert [kernels for kernels, _ in sentinel["timings"]] == [0, 0, 0, 5, 10]
    assert sentinel["timings"][-1][1] == pytest.approx(1.05 * ns)
    assert (sentinel["least_ns"], sentinel["most_ns"]) == pytest.approx((ns, 1.05 * ns))


def test_a_long_history_is_thinned():
    sentinel = Sentinel(lambda: Sampled([5.0], 1, 0, 0.0, 1.0, None))
    sentinel.settle()
    for kernels in range(2 * LISTED):
        assert sentinel.change(kernels)[0] == 0.0
    assert LISTED / 2 < len(sentinel.to_dict()["timings"]) <= LISTED


def test_a_faster_machine_is_not_believed_at_first_sight():
    times = iter([10.0, 10.0, 10.0, 7.0, 10.0, 10.0, 10.1, 7.0, 7.1, 7.0, 7.2])
    sentinel = Sentinel(lambda: Sampled([next(times)], 1, 0, 0.0, 1.0, None))
    sentinel.settle()
    assert sentinel.change(1)[0] == 0.0
    assert sentinel.change(2)[0] == pytest.approx(-0.29)


def test_crashing_kernels_leave_a_sweep_that_ends(tmp_path: Path):
    from tests.measure import fakes

    bad = [conv(fakes.CRASHING_RUN), conv(fakes.BROKEN_BUILD)]
    report = run(tmp_path, [*bad, *SPECS], checker=InlineChecker())
    assert (report.measured, len(report.failures)) == (len(SPECS), 2)
    assert report.checked == len(SPECS) + 1  # what could be built
