import numpy as np
import pytest

from hwprune.measure.stats import bootstrap_medians, quick_relative_width, ratio_interval, summarise
from hwprune.measure.stopping import CLEARLY_TOO_WIDE, PROFILES, QUICK, MeasureProfile, Stopping


def test_known_answers():
    s = summarise([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (s.median, s.minimum, s.mean, s.n) == (3.0, 1.0, 3.0, 5)
    assert 1.0 <= s.ci_low < 3.0 < s.ci_high <= 5.0


def test_constant_samples_have_a_point_interval_and_no_outliers():
    s = summarise([7.0] * 20)
    assert (s.ci_low, s.median, s.ci_high, s.relative_width, s.outliers) == (7.0, 7.0, 7.0, 0.0, ())


def test_outliers_are_counted_and_kept():
    samples = [10.0, 10.1, 9.9, 10.05, 9.95, 10.02, 9.98, 50.0]
    s = summarise(samples)
    assert s.outliers == (7,)
    assert s.n == 8
    assert s.mean == pytest.approx(np.mean(samples))
    # One spike among equal samples is an outlier although the deviations' median is zero.
    assert summarise([1.0] * 4 + [2.0] + [1.0] * 5).outliers == (4,)
    # ... but the last digit of a coarse clock is not.
    assert summarise([1.0] * 15 + [1.001] * 5).outliers == ()


def test_quick_width_agrees_with_the_bootstrap():
    rng = np.random.default_rng(4)
    for n in (30, 100, 700):
        widths = [
            (quick_relative_width(s), summarise(s).relative_width) for s in rng.lognormal(0, 0.2, (40, n))
        ]
        ratios = [quick / slow for quick, slow in widths]
        assert 0.9 < np.median(ratios) < 1.2
        assert max(ratios) < CLEARLY_TOO_WIDE  # what it spares the bootstrap is really too wide
    assert quick_relative_width([7.0] * 20) == 0.0
    assert quick_relative_width([1.0]) == 0.0


def test_deterministic_and_seeded():
    samples = list(np.random.default_rng(3).normal(100, 5, 40))
    assert summarise(samples) == summarise(samples)
    assert summarise(samples, seed=1).ci_low != summarise(samples, seed=2).ci_low


def test_interval_covers_the_true_median_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        s = summarise(list(rng.lognormal(0.0, 0.3, 31)), confidence=0.9, seed=trial)
        hits += s.ci_low <= 1.0 <= s.ci_high
    assert 165 <= hits <= 195  # 180 expected; sd is about 4, and percentile intervals are a bit off


def test_higher_confidence_is_wider():
    samples = list(np.random.default_rng(1).normal(10, 1, 30))
    assert summarise(samples, 0.99).relative_width > summarise(samples, 0.5).relative_width


def test_long_series_are_drawn_in_blocks_without_changing_the_distribution():
    samples = np.random.default_rng(2).normal(100, 10, 50_000)
    draws = bootstrap_medians(samples, seed=0, resamples=100)
    assert draws.shape == (100,)
    # The median's standard error for a normal sample: 1.2533 * sd / sqrt(n).
    assert np.std(draws) == pytest.approx(1.2533 * 10 / np.sqrt(50_000), rel=0.35)
    assert len(set(draws)) > 50


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [float("inf")]])
def test_no_or_broken_samples_are_refused(bad: list[float]):
    with pytest.raises(ValueError, match="finite"):
        summarise(bad)


def test_ratio():
    rng = np.random.default_rng(5)
    slow, fast = rng.normal(200, 4, 60), rng.normal(100, 2, 60)
    ratio, low, high = ratio_interval(list(slow), list(fast))
    assert low < ratio < high
    assert low < 2.0 < high
    assert high - low < 0.05
    assert ratio_interval(list(fast), list(slow))[0] == pytest.approx(1 / ratio)


RULE = Stopping(min_samples=5, min_time_s=0.1, relative_ci=0.05, timeout_s=1.0, floor_samples=3)
TIGHT = [100.0, 100.1, 99.9, 100.0, 100.05, 99.95]
WIDE = [100.0, 150.0, 60.0, 130.0, 80.0, 170.0]


def test_all_three_criteria_are_needed():
    assert RULE.unmet(TIGHT, 0.2) is None
    assert "4 of 5 samples" in str(RULE.unmet(TIGHT[:4], 0.2))
    assert "0.05 of 0.1 s" in str(RULE.unmet(TIGHT, 0.05))
    assert "confidence interval" in str(RULE.unmet(WIDE, 0.2))
    assert "5.0% asked" in str(RULE.unmet(WIDE, 0.2))


def test_timeout_needs_the_floor():
    assert not RULE.timed_out(WIDE, 0.9)
    assert RULE.timed_out(WIDE, 1.0)
    assert not RULE.timed_out(WIDE[:2], 5.0)


def test_profiles_get_stricter_and_travel():
    quick, table, publish = PROFILES.values()
    for less, more in ((quick, table), (table, publish)):
        assert less.stopping.min_samples < more.stopping.min_samples
        assert less.stopping.relative_ci > more.stopping.relative_ci
        assert less.max_disturbance > more.max_disturbance
    assert MeasureProfile.from_dict(QUICK.to_dict()) == QUICK
