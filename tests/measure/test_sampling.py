import pytest

from hwprune.measure import sampling
from hwprune.measure.sampling import Sampled, calibrate, sample, warm_up
from hwprune.measure.stopping import MeasureProfile, Stopping


class Clock:
    """Stands in for the time module: time passes only when an engine says so."""

    def __init__(self) -> None:
        self.now = self.cpu = 100.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.cpu


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sampling, "time", clock)
    return clock


class Engine:
    """Costs ``wall`` seconds a run and reports values from a list, then the last one for ever."""

    def __init__(self, clock: Clock, wall: float, values: list[float], share: float = 1.0) -> None:
        self.clock, self.wall, self.values, self.share = clock, wall, values, share
        self.calls: list[tuple[int, int]] = []

    def time(self, number: int, repeat: int) -> list[float]:
        self.calls.append((number, repeat))
        self.clock.now += self.wall * number * repeat
        self.clock.cpu += self.wall * number * repeat * self.share
        return [self.values.pop(0) if len(self.values) > 1 else self.values[0] for _ in range(repeat)]


def profile(**stopping: float) -> MeasureProfile:
    rule = {"min_samples": 6, "min_time_s": 0.0, "relative_ci": 0.05, "timeout_s": 0.15, **stopping}
    return MeasureProfile("t", 1e-3, 4, 6, Stopping(**rule, floor_samples=3), 1, 1, 1.0, 5.0)  # type: ignore[arg-type]


def test_number_grows_until_a_sample_is_long_enough(clock: Clock):
    engine = Engine(clock, 1e-7, [1.0])
    number = calibrate(engine, 1e-3)
    assert 8_000 <= number <= 20_000
    assert engine.calls[-1] == (number, 1)


def test_the_first_run_is_not_trusted_unless_it_is_very_long(clock: Clock):
    class Cold(Engine):
        def time(self, number: int, repeat: int) -> list[float]:
            self.clock.now += 3e-3 if not self.calls else 0  # page faults
            return super().time(number, repeat)

    assert calibrate(Cold(clock, 1e-4, [1.0]), 1e-3) == 10
    engine = Engine(clock, 20e-3, [1.0])
    assert calibrate(engine, 1e-3) == 1
    assert engine.calls == [(1, 1)]


def test_kernels_that_cost_nothing_end_too(clock: Clock):
    assert calibrate(Engine(clock, 0.0, [0.0]), 1e-3) == sampling.MAX_NUMBER


def test_warm_up_ends_when_three_agree(clock: Clock):
    assert warm_up(Engine(clock, 0, [9.0, 5.0, 3.0, 1.0, 1.01, 1.02, 1.0]), 1, 20, 9.0) == 6
    assert warm_up(Engine(clock, 0, [1.0, 2.0] * 20), 1, 7, 9.0) == 7
    assert warm_up(Engine(clock, 0.02, [1.0, 2.0] * 20), 1, 100, 0.03) == 2


def test_steady_engine_stops_at_the_minimum(clock: Clock):
    result = sample(Engine(clock, 2e-3, [3e-6], share=0.5), profile())
    assert result.unmet is None
    assert 6 <= len(result.samples_ns) <= 9
    assert result.samples_ns == pytest.approx([3000.0] * len(result.samples_ns))
    assert (result.number, result.warmup) == (1, 3)
    assert result.cpu_share == pytest.approx(0.5)
    assert Sampled.from_dict(result.to_dict()) == result


def test_restless_engine_runs_into_the_timeout_and_says_what_is_unmet(clock: Clock):
    result = sample(Engine(clock, 2e-3, [1e-6, 3e-6] * 1000), profile())
    assert result.unmet is not None
    assert "confidence interval" in result.unmet
    assert 0.15 <= result.elapsed_s < 0.16


def test_a_very_slow_engine_takes_the_floor_only(clock: Clock):
    result = sample(Engine(clock, 0.1, [0.06]), profile(min_samples=50))
    assert len(result.samples_ns) == 3
    assert "3 of 50 samples" in str(result.unmet)


def test_minimum_time_is_kept(clock: Clock):
    result = sample(Engine(clock, 1e-3, [1e-6]), profile(min_time_s=0.05))
    assert result.unmet is None
    assert result.elapsed_s >= 0.05 - 1e-9
