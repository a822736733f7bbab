"""Samples of a kernel are taken in passes over its batch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwprune.errors import MeasureError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.samples import SampleFile
from hwprune.latency.table import LatencyTable
from hwprune.measure.rotation import sentinel_spec
from hwprune.measure.sampling import Sampled
from hwprune.measure.sentinel import SENTINEL_TIMINGS
from hwprune.measure.stats import bootstrap_medians, summarise
from hwprune.measure.stopping import PROFILES, TABLE, MeasureProfile, Stopping
from tests.measure.fakes import QUIET, InlineRunner, fake_seconds
from tests.measure.test_profile import SPECS, run

#: Three parts of four samples at least, five at most.
THRICE = replace(QUIET, stopping=Stopping(12, 0.0, 0.02, 0.6, 3), passes=3, max_passes=5)


def timed(factor: Callable[[KernelSpec, int], float] = lambda spec, n: 1.0) -> InlineRunner:
    return InlineRunner(factor)


def kernels_of(runner: InlineRunner) -> list[str]:
    return [d for d in runner.timed if d != sentinel_spec().digest()]


def test_every_kernel_is_timed_in_every_pass_in_another_order(tmp_path: Path):
    runner = timed()
    report = run(tmp_path, SPECS[:5], runner=runner, profile=THRICE)
    order = kernels_of(runner)
    passes = [order[i : i + 5] for i in range(0, 15, 5)]
    assert len(order) == 15
    assert all(sorted(p) == sorted(passes[0]) for p in passes)
    assert len({tuple(p) for p in passes}) > 1
    assert (report.measured, report.unmet) == (5, {})
    row = LatencyTable.load(tmp_path).lookup(SPECS[0])
    assert (row.samples, row.note) == (12, "")
    found = SampleFile(tmp_path).of(row)
    assert found is not None
    assert [part["samples"] for part in found.about["passes"]] == [4, 4, 4]


def test_passes_that_disagree_are_in_the_interval_and_are_followed_by_more(tmp_path: Path):
    odd = SPECS[2].digest()
    seen: list[int] = []

    def factor(spec: KernelSpec, number: int) -> float:
        if spec.digest() != odd:
            return 1.0
        seen.append(number)
        return [1.0, 1.1, 1.2, 1.1, 1.1][len(seen) - 1]

    runner = timed(factor)
    report = run(tmp_path, SPECS[:5], runner=runner, profile=THRICE)
    assert [kernels_of(runner).count(s.digest()) for s in SPECS[:5]] == [3, 3, 5, 3, 3]
    ns = fake_seconds(SPECS[2]) * 1e9
    row = LatencyTable.load(tmp_path).lookup(SPECS[2])
    assert row.median == pytest.approx(1.1 * ns)
    assert row.ci_low == pytest.approx(ns, rel=0.01)
    assert row.ci_high == pytest.approx(1.2 * ns, rel=0.01)
    assert "confidence interval" in row.note
    assert set(report.unmet) == {odd}


def test_a_disturbed_pass_is_taken_again_and_does_not_count(tmp_path: Path):
    second = SENTINEL_TIMINGS + 5 + 1 + 1
    slow = range(second, second + 6)
    runner = timed(lambda spec, n: 1.5 if n in slow else 1.0)
    report = run(tmp_path, SPECS[:5], runner=runner, profile=THRICE)
    assert report.untrusted == 0
    assert len(kernels_of(runner)) == 20
    for spec in SPECS[:5]:
        row = LatencyTable.load(tmp_path).lookup(spec)
        assert row.samples == 12
        assert row.ci_high == pytest.approx(fake_seconds(spec) * 1e9, rel=0.011)


def test_a_lasting_disturbance_is_not_paid_for_again_and_again(tmp_path: Path):
    runner = timed()
    runner.foreign_ticks = 60
    report = run(tmp_path, SPECS[:10], runner=runner, profile=THRICE)
    assert report.untrusted == 10
    # the first batch repeats as many passes as it should have made, the second none
    assert len(kernels_of(runner)) == 5 * 4 + 5


def test_a_kernel_that_crashes_later_fails_and_the_others_go_on(tmp_path: Path):
    class Fragile(InlineRunner):
        def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
            found = super().measure(library, profile)
            if self.timed.count(SPECS[1].digest()) == 2:
                raise MeasureError("timing worker died with SIGSEGV")
            return found

    runner = Fragile()
    report = run(tmp_path, SPECS[:3], runner=runner, profile=THRICE, batch=1)
    assert set(report.failures) == {SPECS[1].digest()}
    assert runner.timed.count(SPECS[1].digest()) == 2
    table = LatencyTable.load(tmp_path)
    assert "SIGSEGV" in table.get(SPECS[1]).status  # type: ignore[union-attr]
    assert table.lookup(SPECS[0]).samples == table.lookup(SPECS[2]).samples == 12


def test_the_first_pass_is_on_disk_before_the_second(tmp_path: Path):
    stop_at = SENTINEL_TIMINGS + 5 + 1 + 2

    class Interrupted(InlineRunner):
        def measure(self, library, profile):  # type: ignore[no-untyped-def]
            if len(self.timed) == stop_at:
                raise KeyboardInterrupt
            return super().measure(library, profile)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, SPECS[:5], runner=Interrupted(), profile=THRICE)
    rows = [r for r in LatencyTable.load(tmp_path) if r.digest != sentinel_spec().digest()]
    assert len(rows) == 5
    assert sorted(r.note for r in rows) == ["timeout: 1 of 3 passes"] * 3 + ["timeout: 2 of 3 passes"] * 2
    # They can be used, and the next sweep mends them.
    report = run(tmp_path, SPECS[:5], profile=THRICE)
    assert (report.skipped, report.measured) == (0, 5)
    assert {r.note for r in LatencyTable.load(tmp_path)} == {""}


def test_interval_over_passes():
    # Within a pass samples agree, between passes they do not: pooling would hide it.
    parts = [[100.0, 100.1, 99.9] * 5, [103.0, 103.1, 102.9] * 5, [106.0, 106.1, 105.9] * 5]
    samples = [s for part in parts for s in part]
    pooled, layered = summarise(samples), summarise(samples, passes=[15, 15, 15])
    assert layered.median == pooled.median == 103.0
    assert (layered.ci_low, layered.ci_high) == pytest.approx((100.0, 106.0), abs=0.2)
    assert layered.relative_width > pooled.relative_width
    # One part, or none named, is the plain bootstrap.
    values = np.asarray(samples)
    assert np.array_equal(bootstrap_medians(values, 3), bootstrap_medians(values, 3, passes=[45]))
    # Parts of different lengths: every one is drawn as often as any other.
    draws = bootstrap_medians(np.array([1.0] * 30 + [2.0] * 3), 0, passes=[30, 3])
    assert 0.2 < (draws == 2.0).mean() < 0.3


def test_the_share_of_one_pass():
    whole, part = TABLE.stopping, TABLE.one_pass().stopping
    assert part.min_samples * TABLE.passes >= whole.min_samples
    assert part.min_time_s * TABLE.passes == pytest.approx(whole.min_time_s)
    assert part.relative_ci > whole.relative_ci
    assert PROFILES["quick"].one_pass() is PROFILES["quick"]
