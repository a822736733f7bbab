"""Repair through the public API and on disk: what is fitted, what is recorded, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hwprune
from hwprune.dependency.blocks import find_blocks
from hwprune.errors import RepairError, UsageError
from hwprune.importance.batches import Batch
from hwprune.planner.curves.meter import Meter
from hwprune.pruned import Subject
from hwprune.repair import CutRepair, FinetuneOptions, RepairOptions, evaluate_accuracy, finetune
from hwprune.repair.saved import repair_saved
from tests.plans import plan_for
from tests.small import Small, batches, evaluation, train

IMAGE = torch.randn(2, 1, 8, 8)
KEEP = {"stem.0": list(range(0, 32, 4)), "a.0": list(range(1, 32, 4))}


@pytest.fixture(scope="module")
def trained() -> Small:
    model = Small()
    finetune(model, train(), options=FinetuneOptions(epochs=24, lr=0.1))
    return model.eval()


def cut(model: nn.Module, keep: dict[str, list[int]] = KEEP, **where: Any) -> hwprune.Pruned:
    subject = Subject.open(model, IMAGE, **where)
    made = plan_for(subject.captured.model, subject.deps, keep, submodule=where.get("submodule"))
    return hwprune.apply_plan(model, IMAGE, made)


def test_a_repaired_model_knows_again_what_it_knew(trained: Small) -> None:
    pruned = cut(trained)
    dense, before = evaluate_accuracy(trained, evaluation()), evaluate_accuracy(pruned.model, evaluation())
    assert dense > 0.95 and before < 0.8
    found = pruned.repair(batches(8, 3))
    assert evaluate_accuracy(found.model, evaluation()) - before >= 0.8 * (dense - before)
    (report,) = found.repairs
    assert [layer.weight for layer in report.layers] == ["a.0.weight", "b.0.weight", "head.weight"]
    assert report.batchnorms == 3 and report.examples == 128
    assert all(layer.after < 0.5 * layer.before for layer in report.layers)
    # The same object is repaired; what was verified before it stands.
    assert found.model is pruned.model and found.max_rel_error == pruned.max_rel_error
    twice = found.repair(batches(8, 3), RepairOptions(method="none"))
    assert [len(r.layers) for r in twice.repairs] == [3, 0]


def test_what_was_done_is_saved_and_handed_on(
    trained: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = cut(trained).repair(train(), RepairOptions(ridge=0.01, examples=48))
    hwprune.save(found, tmp_path / "pruned")
    again = hwprune.load(tmp_path / "pruned", Small)
    for name, value in found.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    (record,) = json.loads((tmp_path / "pruned/plan.json").read_text())["payload"]["repairs"]
    assert record["options"]["ridge"] == 0.01 and record["examples"] == 48
    assert RepairOptions.model_validate(record["options"]) == found.repairs[0].options
    assert [layer["weight"] for layer in record["layers"]][-1] == "head.weight"
    quiet: dict[str, Any] = {"teacher": None, "test": None, "progress": lambda *_: None}
    options = {"epochs": 1, "lr": 0.01, "optimizer": "sgd", "seed": 0}
    repair_saved(tmp_path / "pruned", Small, train(), tmp_path / "more", options=options, **quiet)
    records = json.loads((tmp_path / "more/plan.json").read_text())["payload"]["repairs"]
    assert records[0] == record and records[1]["finetune_steps"] == 4
    # Fitting once more is allowed; fitting what was trained since comes with a warning.
    rest: dict[str, Any] = {**quiet, "fit": RepairOptions(), "dense": trained}
    repair_saved(tmp_path / "pruned", Small, train(), tmp_path / "refit", options=options, **rest)
    assert "trained since its cut" not in caplog.text
    repair_saved(tmp_path / "more", Small, train(), tmp_path / "refit", options=options, **rest)
    assert "trained since its cut" in caplog.text


def test_on_disk_as_in_memory(trained: Small, tmp_path: Path) -> None:
    pruned = cut(trained)
    hwprune.save(pruned, tmp_path / "pruned")
    options: dict[str, Any] = {"epochs": 0, "lr": 0.01, "optimizer": "sgd", "seed": 0}
    rest: dict[str, Any] = {"teacher": None, "test": evaluation(), "progress": lambda *_: None}
    fit = RepairOptions()

    def repaired(out: str, **more: Any) -> dict[str, Any]:
        return repair_saved(
            tmp_path / "pruned", Small, train(), tmp_path / out, options=options, **rest, **more
        )

    found = repaired("fitted", fit=fit, dense=trained)
    assert found["layers"] == 3 and found["accuracy_recalibrated"] > found["accuracy_before"] + 0.2
    ours = pruned.repair(train(), fit).model.state_dict()
    theirs = hwprune.load(tmp_path / "fitted", Small).state_dict()
    assert all(torch.allclose(ours[n], theirs[n], atol=1e-5) for n in ours if "running" not in n)
    with pytest.raises(UsageError, match="--weights"):
        repaired("none", fit=fit)
    with pytest.raises(RepairError, match=r"not the one|no group"):
        repaired("none", fit=fit, dense=nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    assert not (tmp_path / "none").exists()


class Whole(nn.Module):
    """The network inside a model that hands it scaled images by keyword."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x=2.0 * x).flip(1)


def test_a_submodule_is_fitted_to_what_it_is_given(trained: Small) -> None:
    whole = Whole(trained).eval()
    alone = cut(trained).repair([2.0 * x for x, _ in train()])
    inside = cut(whole, submodule="body").repair(train())
    assert [layer.weight for layer in inside.repairs[0].layers] == ["a.0.weight", "b.0.weight", "head.weight"]
    for name, value in alone.model.state_dict().items():
        assert torch.allclose(inside.model.get_submodule("body").state_dict()[name], value, atol=1e-5)


def test_a_shortened_model_is_fitted_to_the_original(trained: Small) -> None:
    subject = Subject.open(trained, IMAGE)
    block = next(b for b in find_blocks(subject.captured, subject.deps) if b.reason is None)
    made = plan_for(trained, subject.deps, {"stem.0": KEEP["stem.0"]}, blocks=[block])
    pruned = hwprune.apply_plan(trained, IMAGE, made)
    before = evaluate_accuracy(pruned.model, evaluation())
    found = pruned.repair(train())
    assert [layer.weight for layer in found.repairs[0].layers] == ["head.weight"]
    assert evaluate_accuracy(found.model, evaluation()) > before


def test_a_repair_depends_on_data(trained: Small) -> None:
    with pytest.raises(UsageError, match="data"):
        hwprune.prune(trained, IMAGE, repair="least_squares")
    with pytest.raises(UsageError, match="method"):
        hwprune.prune(trained, IMAGE, data=train(), repair="lstsq")  # type: ignore[arg-type]
    pruned = cut(trained)
    with pytest.raises(RepairError, match="empty"):
        pruned.repair([])


def test_a_meter_judges_by_the_repair_that_will_be_done(trained: Small) -> None:
    subject = Subject.open(trained, IMAGE)
    data = [Batch((x,), {}, y) for x, y in evaluation()]
    losses = {
        name: Meter(subject.captured, subject.deps, data, repair=repair).kept(KEEP)
        for name, repair in {"recalibrated": None, "fitted": CutRepair(train())}.items()
    }
    assert losses["fitted"] < 0.5 * losses["recalibrated"]
    meter = Meter(subject.captured, subject.deps, data, repair=CutRepair(train()))
    found = find_blocks(subject.captured, subject.deps)
    blocks = [block for block in found if block.reason is None]
    assert meter.without(blocks) >= 0
    assert meter.choice({"stem.0": KEEP["stem.0"]}, blocks) >= 0
    assert meter.resized((4, 4)) >= 0
