"""The search with made-up timings, and once for real."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hwprune.artifact import read_json
from hwprune.errors import MeasureError, TableError
from hwprune.latency.choice import CHOICES_KIND, CHOICES_VERSION, Choice, ChoiceTable, Searched
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.table import LatencyTable
from hwprune.measure.build import BuildJob
from hwprune.measure.profile import profile
from hwprune.measure.search import search
from tests.measure import fakes

DEFAULT, QUICKER, SLOWER, WRONG = (Choice.of("direct", cols=i) for i in (4, 8, 2, 9))


class Builder:
    """Writes a line, or fails."""

    def __init__(self, broken: Sequence[Choice | None] = ()) -> None:
        self.broken, self.built = broken, []

    def build(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[BuildJob, str | None]]:
        for job in reversed(jobs):
            self.built.append(job.choice)
            job.path.write_text("")
            yield job, "no such form" if job.choice in self.broken else None

    def close(self) -> None:
        pass


class Judge:
    """Times by a table; the default takes 100 ns. Remembers who was raced."""

    def __init__(self, times: dict[Choice, float], errors: dict[Choice, float] | None = None) -> None:
        self.times, self.errors, self.raced = times, errors or {}, 0

    def race(self, jobs: Sequence[BuildJob], seed: int) -> list[list[float]]:
        assert jobs[0].choice is None
        assert all(job.path.exists() for job in jobs)
        self.raced += 1
        return [[100.0 if j.choice is None else self.times[j.choice]] * 3 for j in jobs]

    def error(self, default: BuildJob, other: BuildJob, seed: int) -> float:
        assert default.choice is None
        assert other.choice is not None
        return self.errors.get(other.choice, 0.0)


def forms(spec: KernelSpec, target: object) -> tuple[Choice, ...]:
    return (DEFAULT, QUICKER, SLOWER, WRONG) if spec.anchor == "conv2d" else (DEFAULT,)


def run(specs, folder: Path, judge: Judge, builder: Builder | None = None, **more):
    builder = builder or Builder()
    return search(
        specs, fakes.TARGET, folder, judge=judge, builder=builder, forms=forms, pipeline="p", **more
    )


def test_the_fastest_form_that_is_right_wins(tmp_path):
    spec = fakes.conv(16)
    judge = Judge({QUICKER: 80.0, SLOWER: 130.0, WRONG: 50.0}, {WRONG: 0.01})
    report = run([spec, spec, fakes.linear(8, 8)], tmp_path, judge)
    assert (report.requested, report.searched, report.fixed) == (2, 1, 1)
    assert report.gains == {spec.label(): 1.25}
    assert any("differs" in reason for reason in report.failures.values())
    entry = ChoiceTable.load(tmp_path).entry(spec)
    assert entry is not None
    assert entry.choice == QUICKER
    assert entry.medians_ns[DEFAULT.label()] == 100.0
    assert entry.medians_ns[SLOWER.label()] == 130.0


@pytest.mark.parametrize("time", [99.0, 98.5, 100.0, 120.0])
def test_noise_does_not_replace_the_default(tmp_path, time):
    spec = fakes.conv(16)
    run([spec], tmp_path, Judge({QUICKER: time, SLOWER: 130.0, WRONG: 150.0}))
    choices = ChoiceTable.load(tmp_path)
    assert spec in choices
    assert choices.get(spec) is None


def test_nothing_is_searched_twice(tmp_path):
    judge = Judge({QUICKER: 80.0, SLOWER: 130.0, WRONG: 150.0})
    run([fakes.conv(16)], tmp_path, judge)
    builder = Builder()
    report = run([fakes.conv(16), fakes.conv(24)], tmp_path, judge, builder)
    assert (report.cached, report.searched, judge.raced) == (1, 1, 2)
    assert len(builder.built) == 4
    assert len(ChoiceTable.load(tmp_path)) == 2


def test_broken_forms_are_dropped_and_said(tmp_path):
    spec = fakes.conv(16)
    judge = Judge({QUICKER: 80.0, SLOWER: 70.0, WRONG: 150.0})
    report = run([spec], tmp_path, judge, Builder(broken=[SLOWER]))
    assert ChoiceTable.load(tmp_path).get(spec) == QUICKER
    assert report.failures == {f"{spec.label()} [{SLOWER.label()}]": "no such form"}
    other = fakes.conv(24)
    run([other], tmp_path, judge, Builder(broken=[None]))
    assert ChoiceTable.load(tmp_path).get(other) is None


def test_a_race_that_crashes_leaves_the_default(tmp_path):
    class Crashing(Judge):
        def race(self, jobs: Sequence[BuildJob], seed: int) -> list[list[float]]:
            raise MeasureError("worker died")

    report = run([fakes.conv(16)], tmp_path, Crashing({}))
    assert ChoiceTable.load(tmp_path).get(fakes.conv(16)) is None
    assert "worker died" in str(report.failures)


def test_time_runs_out_and_the_rest_can_be_searched_later(tmp_path):
    specs = [fakes.conv(8 * i) for i in range(1, 30)]
    judge = Judge({QUICKER: 80.0, SLOWER: 130.0, WRONG: 150.0})
    report = run(specs, tmp_path, judge, minutes=0.0)
    assert (report.searched, report.remaining) == (0, 29)
    report = run(specs, tmp_path, judge)
    assert (report.searched, report.remaining) == (29, 0)


def row_choices(folder: Path) -> dict[str, str]:
    return {row.label: row.choice for row in LatencyTable.load(folder)}


def test_a_row_is_stale_when_its_choice_changes(tmp_path):
    """The latency that is measured is the latency that ships: rows and choices move together."""
    one, two = fakes.conv(16), fakes.conv(24)

    def measure() -> int:
        report = profile(
            [one, two],
            fakes.TARGET,
            tmp_path,
            profile=fakes.FAST,
            builder=fakes.InlineBuilder(),
            runner=fakes.InlineRunner(),
            pipeline="p",
        )
        return report.measured

    assert measure() == 2
    run([one], tmp_path, Judge({QUICKER: 80.0, SLOWER: 130.0, WRONG: 150.0}))
    assert LatencyTable.load(tmp_path).get(one) is None
    assert LatencyTable.load(tmp_path).get(two) is not None
    assert measure() == 1
    found = row_choices(tmp_path)
    assert found[one.label()] == QUICKER.label()
    assert found[two.label()] == "default"
    # A search that keeps the default does not cost the row that was there.
    run([two], tmp_path, Judge({QUICKER: 120.0, SLOWER: 130.0, WRONG: 150.0}))
    assert measure() == 0
    # Without its choices the row belongs to code that nobody would ship.
    (tmp_path / "choices.json").unlink()
    assert LatencyTable.load(tmp_path).get(one) is None
    assert measure() == 1
    assert set(row_choices(tmp_path).values()) == {"default"}


def test_the_builder_gets_the_recorded_choice(tmp_path):
    one, two = fakes.conv(16), fakes.conv(24)
    choices = ChoiceTable({one.digest(): Searched(one.label(), QUICKER)}, {"by": "test"})
    choices.save(tmp_path)
    asked: dict[str, Choice | None] = {}

    class Recording(fakes.InlineBuilder):
        def build(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[BuildJob, str | None]]:
            asked.update({job.spec.digest(): job.choice for job in jobs})
            return super().build(jobs)

    profile(
        [one, two],
        fakes.TARGET,
        tmp_path,
        profile=fakes.FAST,
        builder=Recording(),
        runner=fakes.InlineRunner(),
        pipeline="p",
    )
    assert asked[one.digest()] == QUICKER
    assert asked[two.digest()] is None


def test_damaged_choices_are_refused(tmp_path):
    spec = fakes.conv(16)
    ChoiceTable({spec.digest(): Searched(spec.label(), QUICKER, {"x": 1.5}, 1e-6, "now")}).save(tmp_path)
    again = ChoiceTable.load(tmp_path).entry(spec)
    assert again == Searched(spec.label(), QUICKER, {"x": 1.5}, 1e-6, "now")
    path = tmp_path / "choices.json"
    text = path.read_text()
    path.write_text(text.replace('"cols": 8', '"cols": 7'))
    with pytest.raises(TableError, match=r"choices\.json"):
        ChoiceTable.load(tmp_path)
    payload = read_json(path, CHOICES_KIND, CHOICES_VERSION, edited="allow")
    assert payload["kernels"][spec.digest()]["choice"]["numbers"] == {"cols": 7}
    path.write_text(json.dumps({"format": CHOICES_KIND}))
    with pytest.raises(TableError, match="search again"):
        ChoiceTable.load(tmp_path)
