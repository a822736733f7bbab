import time

from hwprune.measure.sampling import Sampled, calibrate, sample, warm_up
from hwprune.measure.stopping import MeasureProfile, Stopping


class Busy:
    """Costs ``wall`` seconds a run and reports values from a list, then the last one for ever."""

    def __init__(self, wall: float, values: list[float]) -> None:
        self.wall, self.values = wall, values
        self.calls: list[tuple[int, int]] = []

    def time(self, number: int, repeat: int) -> list[float]:
        self.calls.append((number, repeat))
        time.sleep(self.wall * number * repeat)
        return [self.values.pop(0) if len(self.values) > 1 else self.values[0] for _ in range(repeat)]


def profile(**stopping: float) -> MeasureProfile:
    rule = {"min_samples": 6, "min_time_s": 0.0, "relative_ci": 0.05, "timeout_s": 0.15, **stopping}
    return MeasureProfile("t", 1e-3, 4, 6, Stopping(**rule, floor_samples=3), 1, 1, 1.0, 5.0)  # type: ignore[arg-type]


def test_number_grows_until_a_sample_is_long_enough():
    engine = Busy(2e-4, [1.0])
    number = calibrate(engine, 4e-3)
    # sleep() oversleeps, never undersleeps: fewer runs than by the book may be enough
    assert 2 <= number <= 24
    assert engine.calls[-1] == (number, 1)


def test_slow_kernels_run_once_per_sample():
    assert calibrate(Busy(5e-3, [1.0]), 1e-3) == 1


def test_warm_up_ends_when_three_agree():
    assert warm_up(Busy(0, [9.0, 5.0, 3.0, 1.0, 1.01, 1.02, 1.0]), 1, 20, 9.0) == 6
    assert warm_up(Busy(0, [1.0, 2.0] * 20), 1, 7, 9.0) == 7
    assert warm_up(Busy(0.02, [1.0, 2.0] * 20), 1, 100, 0.03) <= 2


def test_steady_engine_stops_at_the_minimum():
    result = sample(Busy(2e-3, [3e-6]), profile())
    assert result.unmet is None
    assert 6 <= len(result.samples_ns) <= 9
    assert set(result.samples_ns) == {3e-6 * 1e9}
    assert result.number == 1
    assert result.cpu_share < 0.9  # it slept: somebody else had the core
    assert Sampled.from_dict(result.to_dict()) == result


def test_restless_engine_runs_into_the_timeout_and_says_what_is_unmet():
    result = sample(Busy(2e-3, [1e-6, 3e-6] * 1000), profile())
    assert result.unmet is not None
    assert "confidence interval" in result.unmet
    assert result.elapsed_s >= 0.15


def test_a_very_slow_engine_takes_the_floor_only():
    result = sample(Busy(0.06, [0.06]), profile(min_samples=50))
    assert len(result.samples_ns) == 3
    assert "3 of 50 samples" in str(result.unmet)
