"""Losses of cuts after their layers were fitted: curves, checkpoints, and what belongs to which repair."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from hwprune.artifact import write_json
from hwprune.dependency.blocks import find_blocks
from hwprune.errors import RepairError, UsageError
from hwprune.importance import score
from hwprune.planner.curves.calibrate import Calibration, calibrate
from hwprune.planner.curves.memory import KIND, Memory
from hwprune.planner.curves.meter import Meter
from hwprune.planner.curves.recheck import loss_of_choices
from hwprune.pruned import Subject
from hwprune.repair import CutRepair, FinetuneOptions, RepairOptions, finetune
from hwprune.solve.domains import keep_best
from hwprune.solve.problem import Choice
from tests.plans import plan_for
from tests.small import Small, batches, evaluation, train

IMAGE = torch.randn(2, 1, 8, 8)
WIDTHS = (4, 8, 16, 32)
FIT = RepairOptions(examples=64)
#: Asks for a single loss beside that of the model.
ONE: dict[str, Any] = {"domains": {"a.0": WIDTHS}, "points": 1, "blocks": ()}


class Case:
    """A trained network, its groups and scores."""

    def __init__(self) -> None:
        self.model = Small()
        finetune(self.model, train(), options=FinetuneOptions(epochs=24, lr=0.1))
        self.subject = Subject.open(self.model.eval(), IMAGE)
        self.captured, self.deps = self.subject.captured, self.subject.deps
        found = find_blocks(self.captured, self.deps)
        self.blocks = [block for block in found if block.reason is None]
        self.scores = {name: s.numpy() for name, s in score(self.captured, self.deps, "l1").items()}
        self.domains = dict.fromkeys(self.deps.dense_widths, WIDTHS)

    def calibrated(self, repair: Any = None, **more: Any) -> Calibration:
        options: dict[str, Any] = {"scores": self.scores, "blocks": self.blocks, "repair": repair, **more}
        domains = options.pop("domains", self.domains)
        return calibrate(self.captured, self.deps, domains, evaluation(), **options)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def test_curves_after_a_fit_lie_below_those_before(case: Case) -> None:
    before, after = case.calibrated(), case.calibrated(CutRepair(batches(8, 3)))
    assert before.curves.keys() == after.curves.keys()
    for group, curve in before.curves.items():
        fitted = after.curves[group]
        assert all(0 <= f < 0.8 * c for f, c in zip(fitted[:-1], curve[:-1], strict=True)) and curve[0] > 0.05
        assert sum(fitted) < 0.7 * sum(curve)
    # Nothing has lost a channel where a block goes: only statistics are measured again, on other data.
    (block,) = case.blocks
    assert after.block_losses[block.name] == pytest.approx(before.block_losses[block.name], rel=0.1)
    assert after.dense_loss == before.dense_loss and after.losses == before.losses


def test_a_curve_is_the_loss_of_the_model_that_comes_out(case: Case) -> None:
    data = batches(8, 3)
    found = case.calibrated(CutRepair(data, FIT), points=3)
    group = "stem.0"
    keep = {group: keep_best(case.scores[group], 8)}
    pruned = case.subject.cut(plan_for(case.captured.model, case.deps, keep)).repair(data, FIT)
    wanted = Meter(case.captured, case.deps, evaluation()).of(pruned.model)
    assert found.dense_loss + found.measured[group][8] == pytest.approx(wanted, rel=1e-4)
    # So is the loss of a whole plan, by which plans are compared.
    meter = Meter(case.captured, case.deps, evaluation(), repair=CutRepair(data, FIT))
    widths = {"stem.0": 8, "a.0": 4}
    keep = {name: keep_best(case.scores[name], width) for name, width in widths.items()}
    pruned = case.subject.cut(plan_for(case.captured.model, case.deps, keep)).repair(data, FIT)
    choice = Choice({**dict.fromkeys(case.deps.dense_widths, 32), **widths})
    assert loss_of_choices(meter, case.scores)(choice) == pytest.approx(meter.of(pruned.model), rel=1e-4)


def test_the_model_and_the_data_are_left_alone(case: Case) -> None:
    weights = {name: value.clone() for name, value in case.model.state_dict().items()}
    repair = CutRepair(iter(train()), FIT)  # read once, used for every cut
    seen = [tensor.clone() for tensor in repair.tensors]
    first = case.calibrated(repair, domains={"a.0": WIDTHS}, points=1)
    again = case.calibrated(repair, domains={"a.0": WIDTHS}, points=1)
    assert first.measured == again.measured
    assert all(torch.equal(value, weights[name]) for name, value in case.model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(repair.tensors, seen, strict=True))


# -- checkpoints ------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_repair_is_refused(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "losses.json"
    plain = case.calibrated(memory=path, **ONE)
    kept = path.read_bytes()
    with pytest.raises(
        UsageError, match=r"losses\.json holds losses after BatchNorm .* asked for after the repair least_squ"
    ):
        case.calibrated(CutRepair(train()), memory=path, **ONE)
    assert path.read_bytes() == kept
    assert case.calibrated(memory=path, **ONE).losses == 1 < plain.losses
    other = tmp_path / "fitted.json"
    fitted = case.calibrated(CutRepair(train(), FIT), memory=other, **ONE)
    # The same repair of the same data goes on: only the dense loss is taken anew.
    again = case.calibrated(CutRepair(train(), FIT), memory=other, **ONE)
    assert again.losses == 1 and again.measured == fitted.measured
    for repair in (None, CutRepair(train(), RepairOptions(examples=63)), CutRepair(train(), _method())):
        with pytest.raises(UsageError, match=r"after the repair least_squares:examples=64, and they are"):
            case.calibrated(repair, memory=other, **ONE)


def _method() -> RepairOptions:
    return RepairOptions(method="scales", examples=64)


def test_losses_of_layers_that_were_fitted_to_other_data_are_not_taken_over(
    case: Case, tmp_path: Path
) -> None:
    path = tmp_path / "losses.json"
    first = case.calibrated(CutRepair(train(), FIT), memory=path, **ONE)
    other = case.calibrated(CutRepair(batches(4, 9), FIT), memory=path, **ONE)
    assert other.losses == first.losses and other.measured != first.measured
    assert case.calibrated(CutRepair(train(), FIT), memory=path, **ONE).losses == 1


def test_checkpoints_from_before_there_were_repairs_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "losses.json"
    write_json(path, KIND, 2, {"calibrations": [{"key": "k", "losses": {"a=1": 0.5}}]})
    assert Memory(path, "k").get("a=1") == 0.5
    with pytest.raises(UsageError, match="BatchNorm statistics alone"):
        Memory(path, "k", "least_squares")
    Memory(path, "k").put("a=2", 0.25)
    assert json.loads(path.read_text())["version"] == 3
    assert (Memory(path, "k").get("a=1"), Memory(path, "k").get("a=2")) == (0.5, 0.25)


# -- data -------------------------------------------------------------------------------------------


def test_few_examples_are_said_once(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        repair = CutRepair(batches(1), RepairOptions())
        case.calibrated(repair, domains={"a.0": WIDTHS}, points=2)
    few = [record for record in caplog.records if "16 examples only" in record.message]
    assert len(few) == 1 and len(caplog.records) == 1
    caplog.clear()
    CutRepair(batches(1), RepairOptions(method="none"))
    assert not caplog.records


def test_data_that_no_layer_can_be_fitted_to(case: Case) -> None:
    with pytest.raises(RepairError, match="empty"):
        CutRepair([])
    with pytest.raises(RepairError, match="not finite"):
        CutRepair([(x * float("nan"), y) for x, y in train()])
    other = CutRepair([(torch.randn(40, 1, 9, 9), torch.zeros(40).long())])
    with pytest.raises(RepairError, match=r"\(40, 1, 9, 9\)"):
        case.calibrated(other, domains={"a.0": WIDTHS})
