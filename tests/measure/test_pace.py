"""Timings at one pace: what is left when the core's own speed is divided out."""

from dataclasses import replace
from pathlib import Path

import pytest

from hwprune.compile.kernel_runner import KernelRunner
from hwprune.latency.samples import SampleFile
from hwprune.latency.table import LatencyTable
from hwprune.measure.pace import Pace
from hwprune.measure.sampling import Sampled, sample
from hwprune.measure.stopping import MeasureProfile, Stopping
from tests.measure.fakes import InlineRunner, fake_seconds
from tests.measure.test_profile import SPECS, run


def timing(samples: list[float], pace: list[float]) -> Sampled:
    return Sampled(samples, 1, 0, 0.1, 1.0, None, pace_ns=pace)


def test_samples_come_out_as_if_the_core_had_kept_its_pace():
    pace = Pace()
    raw = timing([100.0, 120.0], [10.0, 12.0])
    assert pace.steady(raw) is raw  # nothing is known yet
    pace.learn([timing([50.0, 50.0, 60.0], [10.0, 10.0, 12.0])])
    assert pace.reference_ns == 10.0
    steady = pace.steady(raw)
    assert steady.samples_ns == pytest.approx([100.0, 100.0])
    assert steady.pace_ns == [10.0, 12.0]
    unknown = timing([100.0], [])
    assert pace.steady(unknown) is unknown


def test_a_known_sentinel_decides_the_pace_of_the_next_sweep():
    pace = Pace()
    # Today the core takes 12 where it took 10; the sentinel, 50 in the table, takes 60.
    pace.learn([timing([60.0, 60.0], [12.0, 12.0])], known_ns=50.0)
    assert pace.reference_ns == pytest.approx(10.0)
    assert pace.steady(timing([120.0], [12.0])).samples_ns == pytest.approx([100.0])


def test_timings_without_a_pace_teach_nothing():
    pace = Pace()
    pace.learn([timing([60.0], [])])
    pace.learn([timing([60.0, 61.0], [12.0])])
    assert pace.reference_ns is None


class Paced:
    """An engine on a core that changes its speed: kernel and pace alike."""

    def __init__(self) -> None:
        self.factor, self.calls = 1.0, 0

    def time(self, number: int, repeat: int) -> list[float]:
        self.calls += 1
        self.factor = 1.2 if self.calls % 2 else 1.0
        return [1e-3 * self.factor] * repeat

    def pace(self) -> float:
        return 1e-4 * self.factor


def test_the_pace_is_taken_beside_every_sample():
    care = MeasureProfile("t", 1e-9, 4, 3, Stopping(8, 0.0, 1.0, 1.0, 3), 1, 1, 1.0, 5.0)
    found = sample(Paced(), care)
    assert len(found.pace_ns) == len(found.samples_ns) >= 8
    # Each is the mean of the pace before and after, so that a change in between counts half.
    assert {round(pace) for pace in found.pace_ns} <= {100_000, 110_000, 120_000}


def test_two_sweeps_on_a_core_that_changed_its_speed_agree(tmp_path: Path):
    class PacedRunner(InlineRunner):
        def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
            found = super().measure(library, profile)
            return replace(found, pace_ns=[100.0 * self._factor(SPECS[0], 0)] * len(found.samples_ns))

    run(tmp_path, SPECS[:3], runner=PacedRunner())
    report = run(tmp_path, SPECS, runner=PacedRunner(lambda spec, n: 1.3))
    assert (report.skipped, report.measured, report.untrusted) == (3, len(SPECS) - 3, 0)
    table = LatencyTable.load(tmp_path)
    for spec in SPECS:
        assert table.lookup(spec).median == pytest.approx(fake_seconds(spec) * 1e9)
    later = table.lookup(SPECS[5])
    kept = SampleFile(tmp_path).of(later)
    assert kept is not None
    (part,) = kept.about["passes"]
    (sweep,) = (s for s in table.manifest.sweeps if s.id == later.sweep)
    # What the clock said can be had back: sample * pace / reference.
    clock = kept.values[0] * part["pace_ns"][0] / sweep.conditions["pace_ns"]
    assert clock == pytest.approx(1.3 * fake_seconds(SPECS[5]) * 1e9)


def test_the_matrices_lie_where_they_always_lie():
    from hwprune.compile import fixed_work

    one, other = fixed_work._matrices(), fixed_work._matrices()  # pyright: ignore[reportPrivateUsage]
    assert one is other
    assert one.ctypes.data % 64 == 0
    assert callable(KernelRunner.pace)
