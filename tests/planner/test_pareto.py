"""The frontier on a made-up device, against all choices that there are."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.errors import ArtifactError, BudgetError, UsageError
from hwprune.planner.pareto import Curve, trace
from hwprune.planning.frontiers import Frontier, check_plot
from hwprune.solve.domains import domain_values
from hwprune.solve.plan import Plan
from hwprune.solve.problem import Problem, Solution
from tests.planner.fakes import DOMAINS, WIDTHS, Device, bilinear, random_values, staircase
from tests.plans import plan_for
from tests.small import SHAPE, Small

DENSE = {group: widths[-1] for group, widths in DOMAINS.items()}
VALUES = random_values(7)


def everything(device: Device) -> list[tuple[float, float]]:
    """(latency, importance) of all choices."""
    found: list[tuple[float, float]] = []
    for choice in itertools.product(WIDTHS, repeat=3):
        widths = dict(zip("abc", choice, strict=True))
        worth = sum(domain_values(VALUES[g], (w,))[0] for g, w in widths.items())
        found.append((device.truth(widths), worth))
    return found


def traced(device: Device, count: int = 9, **options: object) -> Curve:
    return trace(device.loop(VALUES), count, **options)  # type: ignore[arg-type]


def test_every_point_is_optimal_and_the_ends_are_the_dense_and_the_quickest_network():
    device = Device(bilinear)
    curve, choices = traced(device), everything(device)
    assert curve.least_ns == pytest.approx(min(latency for latency, _ in choices), rel=1e-2)
    assert curve.dense_ns == pytest.approx(device.truth(DENSE))
    assert curve.budgets == pytest.approx(np.linspace(curve.dense_ns, curve.least_ns, 9), rel=5e-3)
    assert dict(curve.points[0].solution.widths) == DENSE
    assert curve.points[-1].predicted_ns == pytest.approx(curve.least_ns, rel=1e-4)
    assert len(curve.points) >= 8
    latencies = [point.predicted_ns for point in curve.points]
    values = [point.solution.value for point in curve.points]
    assert latencies == sorted(latencies, reverse=True)
    assert values == sorted(values, reverse=True)
    for budget in curve.budgets:
        # By the prediction, which is a little beside the truth.
        lower, upper = (
            max((worth for latency, worth in choices if latency <= budget * off), default=0.0)
            for off in (0.99, 1.01)
        )
        reached = max(p.solution.value for p in curve.points if p.predicted_ns <= budget * (1 + 1e-6))
        assert lower * (1 - 2e-4) <= reached <= upper
    assert curve.dense_value == pytest.approx(max(worth for _, worth in choices))


def test_kernels_of_all_points_are_measured():
    device = Device(staircase(3))
    curve = traced(device)
    table = curve.points[-1].table
    for point in curve.points:
        assert device.model.missing(point.solution.widths, table) == []
        assert point.prediction.interpolated == 0.0
        assert point.predicted_ns == pytest.approx(device.truth(point.solution.widths), rel=0.02)
    assert device.measured_twice == 0
    assert len(device.timed) == 1, "without checks only the dense network is timed"


def test_checks_time_points_together_and_correct_the_prediction():
    device = Device(bilinear, lambda total, widths: total if widths == DENSE else 1.2 * total)
    blind = traced(Device(bilinear, device.network))
    assert all(point.measured_ns is None for point in blind.points)
    curve = traced(device, checks=4)
    assert len(device.timed) == 2
    assert len(device.timed[1]) == 5, "the dense network beside four points"
    errors = [abs(p.predicted_ns / device.truth(p.solution.widths) - 1) for p in curve.points[1:]]
    before = [abs(p.predicted_ns / device.truth(p.solution.widths) - 1) for p in blind.points[1:]]
    assert float(np.median(errors)) < 0.5 * float(np.median(before))
    for point in curve.points:
        if point.measured_ns is not None:
            assert point.measured_ns == pytest.approx(device.truth(point.solution.widths))
    assert any(point.measured_ns is not None for point in curve.points)


def test_other_methods_lie_on_or_below_the_frontier():
    curve = traced(Device(staircase(5)), count=12)
    assert set(curve.rivals) == {"greedy", "uniform"}
    for marks in curve.rivals.values():
        assert len(marks) >= 6
        for mark in marks:
            above = [p.solution.value for p in curve.points if p.predicted_ns <= mark.latency_ns * (1 + 1e-4)]
            below = [b for b in curve.budgets if b <= mark.latency_ns * (1 + 1e-9)]
            # A rival's point lies between two budgets: the frontier at the next higher one is not below it.
            higher = [b for b in curve.budgets if b >= mark.latency_ns * (1 - 1e-9)]
            reached = max(
                p.solution.value for p in curve.points if p.predicted_ns <= min(higher) * (1 + 1e-6)
            )
            assert reached >= mark.value * (1 - 2e-4), (above, below)


def test_a_frontier_of_one_point_or_with_a_floor_is_none():
    device = Device(bilinear)
    with pytest.raises(UsageError, match="1 points is none"):
        traced(device, count=1)
    assert device.timed == []

    def floored(problem: Problem) -> Problem:
        return replace(problem, minimise="latency", floor=1.0)

    with pytest.raises(UsageError, match="all floors"):
        trace(device.loop(VALUES, shape=floored), 5)


def test_a_method_that_fails_at_a_budget_has_no_point_there():
    def never(problem: Problem) -> Solution:
        raise BudgetError("no")

    curve = trace(Device(bilinear).loop(VALUES), 4, rivals={"never": never})
    assert curve.rivals == {"never": ()}


def saved_frontier(count: int = 3) -> Frontier:
    curve = traced(Device(bilinear), count=count)
    captured = capture(Small(), torch.zeros(SHAPE))
    plan = plan_for(captured.model, analyse(captured), {})
    plans = tuple(
        plan.model_copy(update={"predicted_ns": p.predicted_ns, "value": p.solution.value})
        for p in curve.points
    )
    return Frontier(plans, curve)


def test_the_frontier_on_disk_is_plans_and_a_file_about_them(tmp_path: Path):
    frontier = saved_frontier()
    plans = frontier.plans
    frontier.save(tmp_path / "out" / "front.json")
    data = json.loads((tmp_path / "out" / "front.json").read_text())
    assert data["format"] == "hwprune.frontier"
    payload = data["payload"]
    assert [point["plan"] for point in payload["points"]] == [
        "front/01.json",
        "front/02.json",
        "front/03.json",
    ]
    for point, plan in zip(payload["points"], plans, strict=True):
        assert Plan.load(tmp_path / "out" / point["plan"]) == plan
        assert point["predicted_ns"] == plan.predicted_ns
    assert payload["points"][0]["importance"] == pytest.approx(1.0)
    assert set(payload["rivals"]) == {"greedy", "uniform"}
    with pytest.raises(UsageError, match=r"front.png is not an .svg file"):
        check_plot(Path("front.png"))
    pytest.importorskip("matplotlib")
    frontier.plot(tmp_path / "front.svg")
    assert "<svg" in (tmp_path / "front.svg").read_text()


def first_of(frontier: Frontier, count: int) -> Frontier:
    curve = replace(frontier.curve, points=frontier.curve.points[:count])
    return replace(frontier, plans=frontier.plans[:count], curve=curve)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_a_shorter_frontier_leaves_no_plans_of_a_longer_one_and_nothing_else_goes(tmp_path: Path):
    path, longer = tmp_path / "front.json", saved_frontier(5)
    longer.save(path)
    assert len(longer.plans) == 5
    (tmp_path / "front" / "notes.txt").write_text("mine")
    (tmp_path / "front" / "best").mkdir()
    longer.plans[1].save(tmp_path / "front" / "best" / "01.json")
    longer.plans[1].save(tmp_path / "front" / "77.json")  # a plan, but not one that the frontier knows
    first_of(longer, 2).save(path)
    names = {"front.json", "front/01.json", "front/02.json"}
    assert set(contents(tmp_path)) == names | {"front/notes.txt", "front/best/01.json", "front/77.json"}
    assert Plan.load(tmp_path / "front" / "01.json") == longer.plans[0]
    assert (tmp_path / "front" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("step", ["plan", "file", "swap"])
def test_a_frontier_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException], step: str
):
    path, frontier = tmp_path / "front.json", saved_frontier(3)
    first_of(frontier, 1).save(path)
    before = contents(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise fault

    with monkeypatch.context() as patch:
        if step == "plan":
            done: list[Path] = []
            save = Plan.save
            patch.setattr(
                Plan, "save", lambda self, to: fail() if done else done.append(to) or save(self, to)
            )
        elif step == "file":
            patch.setattr("hwprune.planning.frontiers.write_json", fail)
        else:
            patch.setattr("hwprune.artifact.atomic._swap_in", fail)
        with pytest.raises((KeyboardInterrupt, ArtifactError)):
            frontier.save(path)
    assert contents(tmp_path) == before
    path.unlink()
    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, ArtifactError)):
        patch.setattr("hwprune.artifact.atomic._swap_in", fail)
        frontier.save(path)
    assert not path.exists()
    frontier.save(path)
    assert len(contents(tmp_path)) == 4


def test_a_place_where_something_else_lies_is_refused(tmp_path: Path):
    frontier = saved_frontier(2)
    (tmp_path / "front").write_text("a file")
    with pytest.raises(ArtifactError, match=r"front, which is a file"):
        frontier.save(tmp_path / "front.json")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "02.json").write_text("[1]")
    with pytest.raises(ArtifactError, match=r"02.json is no plan"):
        frontier.save(tmp_path / "other.json")
    assert (tmp_path / "other" / "02.json").read_text() == "[1]"
    assert not (tmp_path / "other.json").exists()
