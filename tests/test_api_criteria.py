"""Plans by several criteria, of which held-out data takes the best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import hwprune
from hwprune.errors import BudgetError, BudgetMetError, CriterionError, UsageError
from hwprune.importance import Criterion, registry
from hwprune.repair import FinetuneOptions, finetune
from tests.small import SHAPE, Small, evaluation, train

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("fake_device", "halves")
IMAGE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


class Half(Criterion):
    """Scores that only tell one half of the units from the other."""

    data_need = "none"
    comparability = "global"
    paper = "a made-up one"
    best: ClassVar[slice]

    def score(self, captured: Any, deps: Any, data: Any, *, loss: Any) -> dict[str, torch.Tensor]:
        found = {group.name: torch.full((group.size,), 0.01) for group in deps.groups}
        for scores in found.values():
            scores[self.best] = 1.0
        return found


class Labelled(Half):
    """The same, from data."""

    name = "labelled"
    data_need = "labelled"
    best = slice(0, 16)

    def score(self, captured: Any, deps: Any, data: Any, *, loss: Any) -> dict[str, torch.Tensor]:
        assert len(list(data)) == 4
        return super().score(captured, deps, data, loss=loss)


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two criteria of which one is right about :func:`model`, and one that reads data."""
    for name, best in (("loud", slice(0, 16)), ("silent", slice(16, 32))):
        monkeypatch.setitem(registry._registry, name, type(name, (Half,), {"name": name, "best": best}))
    monkeypatch.setitem(registry._registry, "labelled", Labelled)


@pytest.fixture(scope="module")
def model() -> Small:
    """Trained with half of its channels; nobody hears the other half."""
    model = Small()
    with torch.no_grad():
        for conv, norm in (
            (model.stem[0], model.stem[1]),
            (model.a[0], model.a[1]),
            (model.b[0], model.b[1]),
        ):
            conv.weight[16:] *= 0.0
            norm.weight[16:] *= 0.0
            norm.bias[16:] *= 0.0
    finetune(model, train(), options=FinetuneOptions(steps=30, lr=0.05, optimizer="sgd", weight_decay=0.0))
    return model.eval()


def planned(
    model: Small, tables: Path, criterion: str | Sequence[str], latency: str = "60%", **options: Any
) -> hwprune.Planned:
    data = options.pop("data", None)
    progress = options.pop("progress", lambda what, done, total: None)
    asked = hwprune.PlanOptions(**({"held_out": evaluation()} | options))
    return hwprune.plan(
        model,
        IMAGE,
        latency=latency,
        data=data,
        criterion=criterion,
        tables=tables,
        checks=0,
        options=asked,
        progress=progress,
    )


@pytest.mark.parametrize("order", ["loud,silent", ("silent", " loud", "silent")])
def test_the_better_plan_is_taken_whatever_the_order(model: Small, tables: Path, order: Any):
    found = planned(model, tables, order)
    plan = found.plan
    assert plan.criterion == "loud"
    assert plan.rechecked is not None
    losses = plan.rechecked.criteria
    assert set(losses) == {"loud", "silent"}
    assert plan.rechecked.loss == losses["loud"] < losses["silent"]
    assert all(set(group.kept_units) >= set(range(group.width)) for group in plan.groups)
    # It is the plan that the criterion makes alone, and that is what is cut.
    alone = planned(model, tables, "loud").plan
    assert alone.groups == plan.groups
    assert alone.rechecked is not None and alone.rechecked.criteria == {}
    cut = hwprune.apply_plan(model, IMAGE, plan)
    assert cut.max_rel_error <= 1e-4


def test_the_first_one_stays_where_none_is_clearly_better(
    model: Small, tables: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(
        registry._registry, "twin", type("twin", (registry._registry["loud"],), {"name": "twin"})
    )
    assert planned(model, tables, "twin,loud").plan.criterion == "twin"
    assert planned(model, tables, "loud,twin").plan.criterion == "loud"


def test_solvers_for_comparison_are_compared_among_criteria_only(model: Small, tables: Path):
    plan = planned(model, tables, "silent,loud", solver="uniform").plan
    assert (plan.criterion, plan.solver) == ("loud", "uniform")
    assert plan.rechecked is not None
    assert len(plan.rechecked.criteria) == 2
    assert planned(model, tables, "loud", solver="uniform").plan.rechecked is None


def test_the_loss_that_decided_can_be_seen_and_read_again(model: Small, tables: Path, tmp_path: Path):
    from hwprune.solve.plan_words import plan_words

    plan = planned(model, tables, "silent,loud").plan
    plan.save(tmp_path / "plan.json")
    assert hwprune.Plan.load(tmp_path / "plan.json") == plan
    assert "by criteria: silent " in plan_words(plan)["loss"]
    assert "of which loud was taken" in plan_words(plan)["loss"]


def test_a_criterion_without_a_plan_leaves_the_others(
    model: Small, tables: Path, caplog: pytest.LogCaptureFixture
):
    # With the wrong half kept, every narrower width does too much harm: its floors leave no room.
    plan = planned(model, tables, "silent,loud", most_harm=0.5).plan
    assert plan.criterion == "loud"
    assert plan.rechecked is not None
    assert list(plan.rechecked.criteria) == ["loud"]
    assert "no plan by silent" in caplog.text
    with pytest.raises(BudgetError, match="cannot be reached"):
        planned(model, tables, "silent,loud", latency="1%")
    with pytest.raises(BudgetMetError):
        planned(model, tables, "silent,loud", latency="500%")


def test_data_that_can_be_read_once_serves_all(model: Small, tables: Path):
    def once() -> Iterator[Any]:
        yield from train()

    assert planned(model, tables, "silent,labelled,loud", data=once()).plan.criterion == "labelled"


def test_several_criteria_where_nothing_decides_are_refused(model: Small, tables: Path):
    told: list[str] = []

    def refused(match: str, **options: Any) -> None:
        with pytest.raises(UsageError, match=match):
            planned(model, tables, "loud,silent", progress=lambda what, *_: told.append(what), **options)

    refused("nothing says which of the plans by loud and silent is better", held_out=None)
    refused("at the model's own resolution", resolutions=(8, 4))
    refused("not after a joint search", solver="joint")
    with pytest.raises(UsageError, match="unknown criterion 'lod'"):
        planned(model, tables, "loud,lod")
    with pytest.raises(UsageError, match="unknown criterion ''"):
        planned(model, tables, "loud,")
    with pytest.raises(UsageError, match="no criterion is named"):
        planned(model, tables, ())
    with pytest.raises(CriterionError, match="needs labelled data"):
        planned(model, tables, "loud,labelled")
    asked = hwprune.PlanOptions(held_out=evaluation())
    for ask, what in ((hwprune.frontier, "a frontier"), (hwprune.verdict, "a verdict")):
        with pytest.raises(UsageError, match=f"{what} is by one criterion"):
            ask(model, IMAGE, tables=tables, options=asked, criterion="loud,silent")
    with pytest.raises(UsageError, match="compared for one target"):
        hwprune.plan(
            model, IMAGE, ["host", "x86-64-avx2"], options=asked, criterion="loud,silent", tables=tables
        )
    assert told == []
