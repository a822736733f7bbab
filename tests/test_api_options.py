"""What plans can be asked for beside their latency, on a small residual network and a made-up device."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import hwprune
from hwprune.errors import BudgetError, PlanError, UsageError
from hwprune.planner.joint import JointOptions
from tests.nets import settle
from tests.small import SHAPE, Small, evaluation, train

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("fake_device")
IMAGE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def model() -> Small:
    model = Small()
    settle(model, 1)
    return model.eval()


def asked(model: Small, tables: Path, latency: str | None = "90%", **options: object) -> hwprune.Pruned:
    return hwprune.prune(
        model,
        IMAGE,
        latency=latency,
        tables=tables,
        checks=0,  # other programs on this machine must not decide about a test
        options=hwprune.PlanOptions(**options),  # type: ignore[arg-type]
    )


def test_limits_hold_for_the_model_that_comes_out(model: Small, tables: Path):
    pruned = asked(model, tables, parameters="60%", memory="80%", layers={"a.*": "50%..100%"})
    dense = sum(p.numel() for p in model.parameters())
    found = {line.name: line for line in pruned.plan.limits}
    assert found["parameters"].used == sum(p.numel() for p in pruned.model.parameters())
    assert found["parameters"].used <= found["parameters"].at_most == int(0.6 * dense)
    assert found["memory"].at_most is not None
    assert found["memory"].used <= found["memory"].at_most
    assert pruned.plan.verdict is not None
    assert "pruning can save at most" in pruned.plan.verdict
    assert pruned.plan.low_ns is not None


def test_a_limit_out_of_reach_names_what_can_be_reached(model: Small, tables: Path):
    with pytest.raises(BudgetError, match=r"parameters cannot be reached: .* still needs") as caught:
        asked(model, tables, parameters="1%")
    assert "pruning can save at most" in caught.value.message
    # What pruning can do at most is told by the same prediction that the solver goes by.
    with pytest.raises(BudgetError) as caught:
        asked(model, tables, latency="1%")
    found = re.search(r"least reachable latency is ([\d.]+) ms", caught.value.message)
    told = re.search(r"at its smallest ([\d.]+) ms of", caught.value.message)
    assert found and told
    assert float(told[1]) == pytest.approx(float(found[1]), rel=0.01)
    with pytest.raises(PlanError, match="no aligned width"):
        asked(model, tables, layers={"a.0": "60%..90%"})


def test_least_latency_with_a_floor(model: Small, tables: Path):
    pruned = asked(model, tables, latency=None, floor="60%")
    plan = pruned.plan
    assert plan.objective.least == "latency"
    assert plan.objective.asked == "60%"
    assert 0.6 * (1 - 1e-9) <= plan.value < 1.0
    assert plan.bound <= plan.predicted_ns * (1 + 1e-6)
    assert 0 <= plan.gap <= 1e-3


def test_blocks_and_a_calibrated_objective_that_is_remembered(model: Small, tables: Path, tmp_path: Path):
    trained, checkpoint, told = Small(), tmp_path / "losses.json", list[str]()

    def calibrated() -> hwprune.Pruned:
        return hwprune.prune(
            trained,
            IMAGE,
            latency="75%",
            data=train(),
            tables=tables,
            checks=0,
            options=hwprune.PlanOptions(depth=True, held_out=evaluation(), checkpoint=checkpoint),
            progress=lambda what, done, total: told.append(what),
        )

    pruned = calibrated()
    assert any(what.startswith("calibrate") for what in told)
    losses = checkpoint.read_bytes()
    assert calibrated().plan.groups == pruned.plan.groups
    assert checkpoint.read_bytes() == losses
    plan = pruned.plan
    assert plan.rechecked is not None
    assert plan.rechecked.examples == 32
    assert plan.rechecked.loss > 0
    assert plan.predicted_ns <= plan.budget_ns
    assert pruned.max_rel_error <= 1e-4


def test_floors_against_starvation_hold_in_the_plan(tables: Path):
    def planned(latency: str, most_harm: float | None) -> hwprune.Plan:
        options = hwprune.PlanOptions(held_out=evaluation(), most_harm=most_harm)
        trained = Small()
        settle(trained, 1)
        found = hwprune.plan(
            trained, IMAGE, latency=latency, data=train(), tables=tables, checks=0, options=options
        )
        return found.plan

    free = planned("80%", None)
    assert all(group.floor is None for group in free.groups)
    loose = planned("80%", 1e6)
    assert [g.kept for g in loose.groups] == [g.kept for g in free.groups]
    assert all(group.floor == 16 for group in loose.groups)  # the least width on offer
    # A hair of harm leaves nothing but the full widths, so that no budget can be met.
    with pytest.raises(BudgetError) as caught:
        planned("80%", 1e-9)
    assert caught.value.hint is not None and "--most-harm" in caught.value.hint


def test_solvers_for_comparison_come_by_name(model: Small, tables: Path):
    plan = asked(model, tables, solver="uniform").plan
    assert plan.solver == "uniform"
    assert plan.value <= asked(model, tables).plan.value * (1 + 1e-9)
    with pytest.raises(PlanError, match="there is no solver 'milpp'"):
        hwprune.PlanOptions(solver="milpp")


def test_a_joint_search_is_a_solver_like_the_others(model: Small, tables: Path, tmp_path: Path):
    checkpoint = tmp_path / "search"
    options = hwprune.PlanOptions(
        solver="joint",
        held_out=evaluation(),
        joint=JointOptions(iterations=4, every=2, samples=1, pairs=1, candidates=1),
        checkpoint=checkpoint,
    )
    pruned = hwprune.prune(
        model, IMAGE, latency="90%", data=train(), tables=tables, checks=0, options=options
    )
    assert pruned.plan.solver == "joint"
    assert pruned.plan.budget_ns is not None
    assert pruned.plan.predicted_ns <= pruned.plan.budget_ns
    assert checkpoint.is_file()
    with pytest.raises(UsageError, match="needs data="):
        hwprune.prune(model, IMAGE, latency="90%", tables=tables, checks=0, options=options)


def test_a_joint_search_chooses_among_resolutions(model: Small, tables: Path):
    def searched(latency: str, sides: tuple[int, ...]) -> hwprune.Pruned:
        options = hwprune.PlanOptions(
            solver="joint",
            held_out=evaluation(),
            resolutions=sides,
            joint=JointOptions(iterations=4, every=2, samples=1, pairs=1, candidates=1),
        )
        return hwprune.prune(
            model, IMAGE, latency=latency, data=train(), tables=tables, checks=0, options=options
        )

    # At its own resolution not even the narrowest network is as quick.
    with pytest.raises(BudgetError):
        searched("25%", (8,))
    plan = searched("25%", (8, 4)).plan
    assert plan.solver == "joint"
    assert plan.resolution == (4, 4)
    assert plan.predicted_ns <= plan.budget_ns
    assert 0 < plan.value <= plan.bound
    assert searched("95%", (4,)).plan.resolution == (4, 4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"joint": JointOptions()}, "beside the solver 'milp'"),
        ({"solver": "joint", "held_out": [1], "floor": 0.5}, "takes no floor"),
        ({"resolutions": (8, 4)}, "nothing says what each of them costs"),
        ({"solver": "joint"}, "needs held-out data"),
        ({"gap": 0.0}, "gap is 0.0"),
        ({"time_limit_s": float("nan")}, "time_limit_s is nan"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, object], match: str):
    with pytest.raises(UsageError, match=match):
        hwprune.PlanOptions(**options)  # type: ignore[arg-type]


def test_a_frontier_of_plans(model: Small, tables: Path, tmp_path: Path):
    found = hwprune.frontier(model, IMAGE, points=3, tables=tables)
    assert 2 <= len(found.plans) <= 3
    found.save(tmp_path / "front.json")
    for path in found.plan_paths(tmp_path / "front.json"):
        assert hwprune.apply_plan(model, IMAGE, hwprune.Plan.load(path)).max_rel_error <= 1e-4
    for options, match in (
        ({"floor": 0.9}, "all floors at once"),
        ({"solver": "greedy"}, "solved by milp at all of its points, not by greedy"),
        ({}, "for one target"),
    ):
        target = "host" if options else ["host", "x86-64-avx2"]
        with pytest.raises(UsageError, match=match):
            hwprune.frontier(model, IMAGE, target, tables=tables, options=hwprune.PlanOptions(**options))  # type: ignore[arg-type]


def test_a_verdict_before_any_plan(model: Small, tables: Path):
    said = hwprune.verdict(model, IMAGE, tables=tables)
    assert said.target == "host"
    assert 0 < said.least_ns <= said.dense_ns
    assert {kernel.name for kernel in said.kernels} >= {"stem.0", "a.0", "b.0"}


def test_one_plan_for_two_backends(model: Small, tables: Path):
    pytest.importorskip("onnxruntime")
    pruned = hwprune.prune(
        model,
        IMAGE,
        ["host", "host-onnxruntime"],
        {"host": "90%", "host-onnxruntime": "95%"},
        tables=tables,
        checks=0,
    )
    plan = pruned.plan
    assert plan.target == "host"
    (other,) = plan.fleet
    assert other.target == "host-onnxruntime"
    assert other.predicted_ns <= other.budget_ns == pytest.approx(0.95 * other.dense_ns)
    assert plan.predicted_ns <= plan.budget_ns == pytest.approx(0.9 * plan.dense_ns)
    weighted = hwprune.plan(
        model,
        IMAGE,
        ["host", "host-onnxruntime"],
        "95%",
        tables=tables,
        checks=0,
        options=hwprune.PlanOptions(weights={"host": 3, "host-onnxruntime": 1}),
    ).plan
    assert weighted.fleet[0].weight == 1
    assert weighted.fleet[0].budget_ns is None
    assert weighted.budget_asked == "95% of the weighted mean"
