import pytest

from hwprune.measure.network import LOADS, SAMPLE_S, one_load, runs_per_sample, summarise_loads, take_turns
from tests.measure.fakes import FAST


def test_every_load_takes_its_share_of_the_rounds():
    part = one_load(FAST)
    assert FAST.rounds <= LOADS * part.rounds < FAST.rounds + LOADS
    assert part.sample_s == max(SAMPLE_S, FAST.sample_s)
    assert runs_per_sample([2e6, 1e6, 3e6], part) == round(part.sample_s * 1e3)
    assert runs_per_sample([1e12], part) == 1


def test_the_interval_covers_what_changes_from_load_to_load():
    steady = [{"net": [100.0 + 0.1 * i for i in range(10)]} for _ in range(3)]
    moved = [{"net": [base + 0.1 * i for i in range(10)]} for base in (100.0, 110.0, 120.0)]
    one, other = summarise_loads(steady, 0)["net"], summarise_loads(moved, 0)["net"]
    assert one.relative_width < 0.01
    assert other.ci_low < 101 and other.ci_high > 120
    assert other.n == 30


def test_turns():
    asked: list[tuple[str, int, int]] = []

    def ask(name: str, number: int, repeat: int) -> list[float]:
        asked.append((name, number, repeat))
        return [9e9] + [float(number)] * (repeat - 1)

    samples = take_turns({"a": 1, "b": 7}, ask, FAST, seed=0)
    assert {name: set(values) for name, values in samples.items()} == {"a": {1.0}, "b": {7.0}}
    assert len(samples["a"]) == FAST.rounds * FAST.samples_per_round
    for start in range(0, len(asked), 2):
        assert {name for name, _, _ in asked[start : start + 2]} == {"a", "b"}
    assert asked[0][2] == FAST.samples_per_round + 1


@pytest.mark.parametrize("first", [[0.0], [0.0, 5.0]])
def test_a_clock_that_stands_still_does_not_divide_by_zero(first: list[float]):
    assert runs_per_sample(first, one_load(FAST)) >= 1
