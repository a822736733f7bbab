"""Plans whose cuts are judged after the repair of the finished model, on a made-up device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import hwprune
from hwprune.errors import RepairError, UsageError
from hwprune.repair import FinetuneOptions, RepairOptions, finetune
from hwprune.repair.options import read_repair
from hwprune.solve.plan_words import plan_words
from tests.small import SHAPE, Small, batches, evaluation, train

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("fake_device")
IMAGE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
FIT = "least_squares:examples=64"


@pytest.fixture(scope="module")
def model() -> Small:
    model = Small(48)
    finetune(model, train(), options=FinetuneOptions(epochs=24, lr=0.1))
    return model.eval()


def planned(model: Small, tables: Path, data: Any = None, **options: Any) -> hwprune.Pruned:
    criterion = options.pop("criterion", "l1")
    asked: dict[str, Any] = {"held_out": evaluation()} | options
    return hwprune.prune(
        model,
        IMAGE,
        latency="60%",
        data=train() if data is None else data,
        criterion=criterion,
        tables=tables,
        checks=0,
        options=hwprune.PlanOptions(**asked),
    )


def held_out_loss(model: torch.nn.Module) -> float:
    with torch.no_grad():
        losses = [float(functional.cross_entropy(model.eval()(x), y)) for x, y in evaluation()]
    return sum(losses) / len(losses)


def test_a_plan_says_what_the_repaired_model_will_lose(model: Small, tables: Path, tmp_path: Path):
    plain, judged = planned(model, tables), planned(model, tables, repair=FIT)
    for pruned in (plain, judged):
        pruned.plan.save(tmp_path / "plan.json")
        assert hwprune.Plan.load(tmp_path / "plan.json") == pruned.plan
    assert (plain.plan.judged_after, judged.plan.judged_after) == (None, FIT)
    assert plain.plan.rechecked is not None and judged.plan.rechecked is not None
    assert judged.plan.rechecked.dense == plain.plan.rechecked.dense
    assert FIT in plan_words(judged.plan)["judged"] and "judged" not in plan_words(plain.plan)
    # The loss in the plan is that of the model after this repair, and not what is there before it.
    told = judged.plan.rechecked.loss
    assert held_out_loss(judged.model) > 1.5 * told
    judged.repair(train(), read_repair(FIT))
    assert held_out_loss(judged.model) == pytest.approx(told, rel=1e-3)


def test_what_the_model_will_be_repaired_by_is_what_cuts_are_judged_after(model: Small, tables: Path):
    def judged_after(final: Any, **options: Any) -> str | None:
        asked: dict[str, Any] = {"held_out": evaluation()} | options
        found = hwprune.prune(
            model,
            IMAGE,
            latency="60%",
            data=train(),
            repair=final,
            criterion="l1",
            tables=tables,
            checks=0,
            options=hwprune.PlanOptions(**asked),
        )
        assert len(found.repairs) == 1
        return found.plan.judged_after

    # Fewer examples do to judge a cut than to repair a model.
    assert judged_after("least_squares") == "least_squares:examples=128"
    assert judged_after(FIT, repair="none") == "none"
    assert judged_after("scales:examples=96", held_out=None) is None


def test_criteria_share_data_that_can_be_read_once(model: Small, tables: Path):
    listed = planned(model, tables, criterion="l1,taylor2019", repair=FIT)
    once = planned(model, tables, data=iter(train()), criterion="l1,taylor2019", repair=FIT)
    assert once.plan.groups == listed.plan.groups and once.plan.rechecked == listed.plan.rechecked
    assert once.plan.rechecked is not None and set(once.plan.rechecked.criteria) == {"l1", "taylor2019"}


def test_a_frontier_and_blocks_after_a_repair(model: Small, tables: Path):
    options = hwprune.PlanOptions(held_out=evaluation(), repair=RepairOptions(method="scales"), depth=True)
    found = hwprune.frontier(
        model, IMAGE, data=train(), criterion="l1", tables=tables, points=3, options=options
    )
    assert {plan.judged_after for plan in found.plans} == {"scales"}


def test_a_checkpoint_goes_on_with_the_same_repair_only(model: Small, tables: Path, tmp_path: Path):
    path = tmp_path / "losses.json"
    first = planned(model, tables, repair=FIT, checkpoint=path)
    kept = path.read_bytes()
    assert planned(model, tables, repair=read_repair(FIT), checkpoint=path).plan.groups == first.plan.groups
    for repair in (None, "scales", "least_squares"):
        with pytest.raises(UsageError, match=rf"losses\.json holds losses after the repair {FIT}"):
            planned(model, tables, repair=repair, checkpoint=path)
    assert path.read_bytes() == kept


def test_what_a_repair_needs(model: Small, tables: Path):
    same = evaluation()
    with pytest.raises(UsageError, match=r"after the repair scales, but there are no data") as caught:
        hwprune.plan(model, IMAGE, options=hwprune.PlanOptions(held_out=same, repair="scales"))
    assert caught.value.hint is not None and "--data" in caught.value.hint
    with pytest.raises(UsageError, match="data= and held_out= are the same"):
        planned(model, tables, data=same, held_out=same, repair="scales")
    with pytest.raises(RepairError, match="not finite"):
        planned(model, tables, data=[(x / 0.0, y) for x, y in batches(1)], repair="scales")
    with pytest.raises(UsageError, match="pruning in rounds takes held_out"):
        hwprune.prune_iteratively(
            model,
            IMAGE,
            train=train(),
            plan_options=hwprune.PlanOptions(held_out=same, repair="scales"),
        )
