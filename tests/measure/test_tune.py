"""Tuning with made-up timings and schedules: who is tuned, who wins, what is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hwprune.compile.tuned import TUNED
from hwprune.errors import MeasureError, TableError, UsageError
from hwprune.latency.choice import Choice, ChoiceTable, Searched
from hwprune.latency.kernel import KernelInput, KernelOp, KernelSpec
from hwprune.latency.table import LatencyTable
from hwprune.latency.traces import trace_path
from hwprune.measure.behind import kernels_behind
from hwprune.measure.build import BuildJob
from hwprune.measure.present import PresentTimes
from hwprune.measure.profile import profile
from hwprune.measure.proposer import Proposal
from hwprune.measure.tune import tune
from tests.measure import fakes

SLOW, FAST, FASTEST, WRONG, BROKEN = (
    Choice(TUNED, (), name) for name in ["slow", "fast", "fastest", "wrong", "bad"]
)
TIMES = {SLOW: 130.0, FAST: 90.0, FASTEST: 60.0, WRONG: 10.0, BROKEN: 10.0}
NOISE = Choice(TUNED, (), "noise")
TIMES[NOISE] = 98.5


class Builder:
    def build(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[BuildJob, str | None]]:
        for job in jobs:
            job.path.write_text("")
            yield job, "no such loops" if job.choice == BROKEN else None

    def close(self) -> None:
        pass


class Judge:
    """The default takes 100 ns."""

    def race(self, jobs: Sequence[BuildJob], seed: int) -> list[list[float]]:
        assert all(job.path.exists() for job in jobs)
        return [[TIMES[job.choice] if job.choice else 100.0] * 3 for job in jobs]

    def error(self, default: BuildJob, other: BuildJob, seed: int) -> float:
        assert default.choice is None
        assert default.path.exists()
        assert other.path.exists()
        return 1e-2 if other.choice == WRONG else 1e-6


class Proposer:
    """Proposes rounds as given; remembers what it was told."""

    def __init__(self, *rounds: Sequence[Choice], earlier: Sequence[Choice] = ()) -> None:
        self.rounds, self.earlier = list(rounds), tuple(earlier)
        self.told: list[list[float | None]] = []
        self.begun: list[str] = []

    def begin(self, spec: KernelSpec) -> None:
        self.begun.append(spec.label())

    def propose(self) -> Proposal:
        return Proposal(tuple(self.rounds.pop(0)) if self.rounds else (), 7)

    def learn(self, seconds: Sequence[float | None]) -> None:
        self.told.append(list(seconds))

    def best(self, count: int) -> tuple[Choice, ...]:
        return self.earlier[:count]

    def close(self) -> None:
        pass


class Clock:
    """Each look takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


#: The linear layer does its work far faster than the convolution, so the convolution stays behind.
BEHIND, AHEAD = fakes.conv(16), fakes.linear(512, 512)


def run(folder: Path, proposer: Proposer, judge: Judge | None = None, **more):
    options = {"minutes": 100.0, "clock": Clock(), **more}
    return tune(
        [BEHIND, AHEAD],
        fakes.TARGET,
        folder,
        builder=Builder(),
        judge=judge or Judge(),
        proposer=proposer,
        timer=lambda specs: {BEHIND.digest(): 1e6, AHEAD.digest(): 1e5},
        pipeline="p",
        **options,
    )


def test_the_fastest_right_schedule_replaces_the_form(tmp_path):
    proposer = Proposer([SLOW, WRONG, BROKEN, FAST], [FASTEST, SLOW])
    report = run(tmp_path, proposer)
    assert proposer.begun == [BEHIND.label()]
    (kernel,) = report.kernels
    assert (kernel.trials, kernel.earlier, kernel.failed, kernel.choice) == (6, 7, 2, FASTEST.label())
    assert kernel.gain == pytest.approx(100 / 60)
    entry = ChoiceTable.load(tmp_path).entry(BEHIND)
    assert entry is not None
    assert entry.choice == FASTEST
    assert entry.medians_ns == {"default": 100.0, FAST.label(): 90.0, FASTEST.label(): 60.0}
    # A schedule that gives other results was timed all the same: its time is worth knowing.
    assert proposer.told[0] == pytest.approx([130e-9, 10e-9, None, 90e-9])
    assert trace_path(tmp_path, FASTEST.label().split()[1]).read_text() == "fastest"
    assert "1 kernels became faster, the most by 1.67x" in report.summary()
    assert not list(tmp_path.glob(".build-*"))


def test_that_nothing_is_faster_is_said_plainly(tmp_path):
    report = run(tmp_path, Proposer([SLOW, NOISE], [BROKEN]))
    assert ChoiceTable.load(tmp_path).get(BEHIND) is None
    assert not (tmp_path / "traces").exists()
    assert "none was faster than what the kernels have already" in report.summary()
    assert report.kernels[0].note == "all schedules were tried"
    assert report.kernels[0].gain == 1.0


def test_the_present_form_is_the_one_to_beat(tmp_path):
    present = Choice.of("direct", cols=8)
    TIMES[present] = 70.0
    ChoiceTable({BEHIND.digest(): Searched(BEHIND.label(), present, {"x": 1.0})}).save(tmp_path)
    run(tmp_path, Proposer([FAST]))
    assert ChoiceTable.load(tmp_path).get(BEHIND) == present
    run(tmp_path, Proposer([FASTEST]))
    entry = ChoiceTable.load(tmp_path).entry(BEHIND)
    assert entry is not None
    assert entry.choice == FASTEST
    assert entry.medians_ns == {"x": 1.0, present.label(): 70.0, FASTEST.label(): 60.0}


def test_schedules_of_earlier_runs_are_raced_first(tmp_path):
    report = run(tmp_path, Proposer(earlier=[FAST, SLOW]))
    assert ChoiceTable.load(tmp_path).get(BEHIND) == FAST
    assert report.kernels[0].trials == 0


def test_an_interrupt_keeps_what_was_found(tmp_path):
    class Interrupted(Proposer):
        def propose(self) -> Proposal:
            if not self.rounds:
                raise KeyboardInterrupt
            return super().propose()

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Interrupted([FAST]))
    assert ChoiceTable.load(tmp_path).get(BEHIND) == FAST
    assert not list(tmp_path.glob(".build-*"))


def test_time_and_trials_are_kept_to(tmp_path):
    proposer = Proposer(*[[SLOW, SLOW]] * 1000)
    report = run(tmp_path, proposer, minutes=1.0)
    assert 15 < len(proposer.told) <= 30
    assert report.kernels[0].note == ""
    assert run(tmp_path, Proposer(*[[SLOW, SLOW]] * 9), trials=4).kernels[0].trials == 4


def test_the_least_time_is_spent_on_who_has_most_to_gain(tmp_path):
    """However little time there is, one kernel gets it, and the others are listed as left out."""
    less = fakes.conv(24)
    proposer = Proposer(*[[SLOW]] * 99)
    report = tune(
        [BEHIND, AHEAD, less],
        fakes.TARGET,
        tmp_path,
        minutes=0.1,
        clock=Clock(),
        builder=Builder(),
        judge=Judge(),
        proposer=proposer,
        timer=lambda _: {BEHIND.digest(): 1e6, AHEAD.digest(): 1e5, less.digest(): 5e5},
        pipeline="p",
    )
    assert proposer.begun == [BEHIND.label()]
    assert [(k.label, k.trials > 0, k.note) for k in report.kernels] == [
        (BEHIND.label(), True, ""),
        (less.label(), False, "no time was left"),
    ]


def test_a_crashing_schedule_costs_nobody_else(tmp_path):
    class Crashing(Judge):
        def race(self, jobs: Sequence[BuildJob], seed: int) -> list[list[float]]:
            if WRONG in [job.choice for job in jobs]:
                raise MeasureError("worker died")
            return super().race(jobs, seed)

    proposer = Proposer([SLOW, FAST, WRONG, FASTEST])
    run(tmp_path, proposer, Crashing())
    assert proposer.told == [pytest.approx([130e-9, 90e-9, None, 60e-9])]
    assert ChoiceTable.load(tmp_path).get(BEHIND) == FASTEST


def test_a_kernel_that_cannot_be_tuned_says_why(tmp_path):
    class Helpless(Proposer):
        def begin(self, spec: KernelSpec) -> None:
            raise MeasureError("no loops here")

    report = run(tmp_path, Helpless())
    assert report.kernels[0].note == "no loops here"


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_no_time_is_refused(tmp_path, minutes):
    with pytest.raises(UsageError, match="tuning takes time"):
        run(tmp_path, Proposer(), minutes=minutes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["missing", "edited", "truncated", "binary"])
def test_a_damaged_schedule_is_refused(tmp_path, damage):
    run(tmp_path, Proposer([FAST]))
    path = trace_path(tmp_path, FAST.label().split()[1])
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"edited": b"fasT", "truncated": b"fas", "binary": b"\xff\xfe"}[damage])
    with pytest.raises(TableError, match="the schedule of a tuned kernel") as caught:
        ChoiceTable.load(tmp_path)
    assert str(path) in caught.value.message
    assert "search again" in str(caught.value.hint)


def test_present_forms_are_timed_and_the_table_is_believed(tmp_path):
    """Rows of the table serve where they are current; other kernels are timed as they are now."""
    profile(
        [AHEAD],
        fakes.TARGET,
        tmp_path,
        profile=fakes.FAST,
        builder=fakes.InlineBuilder(),
        runner=fakes.InlineRunner(),
        pipeline="p",
    )
    present = Choice.of("direct", cols=8)
    TIMES[present] = 70.0
    choices = ChoiceTable({BEHIND.digest(): Searched(BEHIND.label(), present)}, {"by": "test"})
    choices.save(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    timer = PresentTimes(choices, tmp_path, Builder(), Judge(), scratch, 0, None)
    times = timer([BEHIND, AHEAD, BEHIND])
    assert times[BEHIND.digest()] == 70.0
    assert times[AHEAD.digest()] == LatencyTable.load(tmp_path).lookup(AHEAD).median
    assert not list(scratch.iterdir())


def relu(size: int) -> KernelSpec:
    return KernelSpec((KernelInput((1, 16, size, size), "data"),), (KernelOp("relu", (0,)),))


def test_who_stays_behind_and_why():
    """Two rates, known answers: 2 flop/ns and 8 bytes/ns are the best that anybody reaches."""
    fast, slow = fakes.linear(1000, 1000), fakes.conv(16)
    move, crawl = relu(50), relu(100)
    times = {
        # 2e6 operations, 4.008e6 bytes in 1e6 ns.
        fast.digest(): 1e6,
        # 2 * 16 * 100 * 72 + 1600 = 232000 operations: at 2 a nanosecond 116000 ns.
        slow.digest(): 1.116e6,
        # 2 * 4 * 16 * 2500 = 320000 bytes: 8 a nanosecond.
        move.digest(): 4e4,
        crawl.digest(): 3.2e5,
    }
    found = kernels_behind([fast, slow, slow, move, crawl], times)
    assert [b.spec for b in found] == [slow, crawl]
    assert found[0].calls == 2
    assert found[0].possible_ns == pytest.approx(116000, rel=0.01)
    assert found[0].lost_ns == pytest.approx(2e6, rel=0.01)
    assert "of 2 GFLOP/s" in found[0].reason
    assert found[1].possible_ns == pytest.approx(1.6e5)
    assert "4 of 8 GB/s" in found[1].reason
    assert kernels_behind([fast], {}) == []
    assert kernels_behind([fast, slow], {fast.digest(): 1e6}) == []
