"""Pruning in rounds on a made-up device."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hwprune
from hwprune.errors import BudgetError, RepairError, UsageError
from hwprune.importance import get, score
from hwprune.planning import iterating
from hwprune.planning.iterative import Iterated, IterativeOptions
from hwprune.planning.schedules import shares
from hwprune.repair import FinetuneOptions
from tests.nets import settle
from tests.small import SHAPE, Small, evaluation, train

pytestmark = pytest.mark.usefixtures("fake_device")
IMAGE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
WIDTH = 96
OPTIONS = IterativeOptions(
    rounds=3,
    schedule="linear",
    every=2,
    repair=None,
    finetune=FinetuneOptions(steps=5, steps_per_epoch=2, lr=0.02),
)


def _loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    """The training batches in an order that a generator of its own draws."""
    images, labels = (torch.cat(part) for part in zip(*train(), strict=True))
    generator = torch.Generator().manual_seed(5)
    return DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True, generator=generator)


def _accuracy(model: nn.Module) -> float:
    hits = [(model(x).argmax(1) == y).float().mean() for x, y in evaluation()]
    return float(torch.stack(hits).mean())


def _run(model: nn.Module, tables: Path, *, checkpoint: Path | None = None, **more) -> Iterated:  # type: ignore[no-untyped-def]
    options = {
        "latency": "40%",
        "options": OPTIONS,
        "checks": 0,
        "train": _loader(),
        "evaluate": _accuracy,
    } | more
    return hwprune.prune_iteratively(model, IMAGE, tables=tables, checkpoint=checkpoint, **options)


_WHOLE: list[Iterated] = []


def _whole(tables: Path) -> Iterated:
    """A run that is not interrupted, once for all tests."""
    if not _WHOLE:
        _WHOLE.append(_run(_model(), tables))
    return _WHOLE[0]


def _model() -> nn.Module:
    return settle(Small(WIDTH), 1).eval()


def test_schedules() -> None:
    assert shares("linear", 0.4, 3) == pytest.approx((0.8, 0.6, 0.4))
    assert shares("exponential", 0.25, 2) == pytest.approx((0.5, 0.25))
    assert shares("agp", 0.5, 2) == pytest.approx((0.5 + 0.5 / 8, 0.5))
    for schedule in ("linear", "exponential", "agp"):
        found = shares(schedule, 0.3, 7)
        assert list(found) == sorted(found, reverse=True) and found[-1] == 0.3 and found[0] < 1
        assert shares(schedule, 0.3, 1) == (0.3,)
    # Cubic: most of it at first.
    drops = [a - b for a, b in zip((1.0, *shares("agp", 0.3, 7)), shares("agp", 0.3, 7), strict=False)]
    assert drops == sorted(drops, reverse=True)
    for wrong in (("agp", 1.0, 3), ("agp", 0.0, 3), ("agp", 0.5, 0), ("cosine", 0.5, 3)):
        with pytest.raises(UsageError):
            shares(*wrong)


def test_rounds_follow_the_schedule_and_leave_the_model_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = _model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stages: list[str] = []
    found = _run(model, tmp_path, progress=lambda what, done, total: stages.append(what))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert [r.share for r in found.rounds] == pytest.approx(shares("linear", 0.4, 3))
    dense = found.pruned.plan.dense_ns
    widths = [sum(r.widths.values()) for r in found.rounds]
    for each in found.rounds:
        assert each.latency_ns is not None and each.latency_ns <= each.share * dense * (1 + 1e-9)
        assert each.cut_metric is not None and each.trained_metric is not None
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1]
    assert {"round 1: plan", "round 3: train"} <= set(stages)
    plan = found.pruned.plan
    assert plan.widths == found.rounds[-1].widths
    assert plan.budget_asked == "40% in 3 rounds"
    assert found.rounds[-1].trained_metric == pytest.approx(_accuracy(found.pruned.model))
    # One plan for all cuts: saved and loaded like any other.
    hwprune.save(found.pruned, tmp_path / "saved")
    again = hwprune.load(tmp_path / "saved", _model)
    torch.testing.assert_close(again(IMAGE), found.pruned.model.eval()(IMAGE))
    found.pruned.repair(train())
    assert "trained since its cut" in caplog.text


def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    whole = _whole(tmp_path / "whole")

    where = tmp_path / "run"
    # Once in the middle of a training, behind its third step, and once before a cut.
    for stop in (("round 2: train", 3), ("round 3: plan", 2)):

        def interrupt(what: str, done: int, total: int, stop: tuple[str, int] = stop) -> None:
            if (what, done) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            _run(_model(), tmp_path / "tables", checkpoint=where, progress=interrupt)
    found = _run(_model(), tmp_path / "tables", checkpoint=where)
    assert found.rounds == whole.rounds
    for name, value in whole.pruned.model.state_dict().items():
        assert torch.equal(found.pruned.model.state_dict()[name], value), name
    # A finished run is only read.
    read = _run(_model(), tmp_path / "tables", checkpoint=where, progress=interrupt)
    assert read.rounds == whole.rounds
    assert sorted(path.name for path in where.iterdir()) == ["rounds.checkpoint"]
    with pytest.raises(RepairError, match="was written with other latency, options"):
        _run(
            _model(),
            tmp_path / "tables",
            checkpoint=where,
            latency="50%",
            options=OPTIONS.model_copy(update={"rounds": 2}),
        )
    with pytest.raises(RepairError, match="was written with other criterion"):
        _run(_model(), tmp_path / "tables", checkpoint=where, criterion=get("taylor2019", form="gate"))


def test_scores_build_up_over_training_steps_and_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second cut goes by the running average of the first scores and of those of trained weights."""
    seen: list[dict[str, torch.Tensor]] = []
    original = iterating.prepare

    def spy(*args, **kwargs):  # type: ignore[no-untyped-def]
        prepared = original(*args, **kwargs)
        subject = prepared.subject
        seen.append(kwargs["criterion"].score(subject.captured, subject.deps, None, loss=None))
        return prepared

    weights: list[dict[str, torch.Tensor]] = []

    def note(model: nn.Module) -> float:
        weights.append(copy.deepcopy(model.state_dict()))
        return 0.0

    monkeypatch.setattr(iterating, "prepare", spy)
    options = OPTIONS.model_copy(update={"rounds": 2, "every": 5, "momentum": 0.75, "batches": 3})
    found = hwprune.prune_iteratively(
        _model(),
        IMAGE,
        latency="40%",
        train=train(),
        options=options,
        tables=tmp_path,
        checks=0,
        evaluate=note,
        criterion=get("taylor2019", form="gate"),
    )
    captured, deps = hwprune.api.analyse_model(_model(), IMAGE)
    first = score(captured, deps, "taylor2019", train()[:3], form="gate")
    for name, value in first.items():
        torch.testing.assert_close(seen[0][name], value)
    # One minibatch (the second: step 5 is the first to be scored) after the last step of the first round.
    assert first.keys() == seen[1].keys()
    captured, deps = hwprune.api.analyse_model(_rebuilt(weights[2]), IMAGE)
    now = score(captured, deps, "taylor2019", [train()[1]], form="gate")
    plan = found.rounds[0]
    for name, value in seen[1].items():
        assert len(value) == plan.widths[name]
        # What the first scores were of the units that stayed: the rest of the average.
        rest = (value - 0.25 * now[name]) / 0.75
        assert all(torch.isclose(first[name], r, rtol=1e-4).any() for r in rest)


def _rebuilt(state: dict[str, torch.Tensor]) -> nn.Module:
    """The small network at the widths of a state."""
    model = Small(WIDTH)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            for key in [k for k, _ in (*layer.named_parameters(), *layer.named_buffers())]:
                value = state[f"{name}.{key}"]
                old = getattr(layer, key)
                setattr(layer, key, nn.Parameter(value) if isinstance(old, nn.Parameter) else value)
    return model.eval()


def test_criteria_without_data_and_a_teacher(tmp_path: Path) -> None:
    model = _model()
    options = OPTIONS.model_copy(update={"rounds": 2, "schedule": "exponential"})
    found = _run(model, tmp_path, options=options, criterion="l2", teacher=model, loss=F.cross_entropy)
    assert len(found.rounds) == 2


def test_what_is_not_understood_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes held_out, solver"):
        _run(_model(), tmp_path, plan_options=hwprune.PlanOptions(parameters="50%"))
    with pytest.raises(UsageError, match="takes no submodule"):
        _run(_model(), tmp_path, submodule="stem")
    with pytest.raises(UsageError, match="no batches for criterion taylor2019"):
        _run(_model(), tmp_path, data=[])
    with pytest.raises(UsageError, match="did you mean taylor2019"):
        _run(_model(), tmp_path, criterion="taylor2018")
    stages: list[str] = []
    with pytest.raises(BudgetError, match="the least reachable latency is"):
        _run(_model(), tmp_path, latency="2%", progress=lambda what, done, total: stages.append(what))
    assert stages and not [what for what in stages if "train" in what]
    with pytest.raises(UsageError, match="read only once"):
        _run(_model(), tmp_path, train=iter(train()))
    with pytest.raises(UsageError, match="keep its best epoch"):
        best = OPTIONS.finetune.model_copy(update={"keep_best": True})
        _run(_model(), tmp_path, options=OPTIONS.model_copy(update={"final": best}), evaluate=None)
    with pytest.raises(BudgetError, match="cannot be read"):
        _run(_model(), tmp_path, latency="half")
    with pytest.raises(RepairError, match="the training loader is empty"):
        _run(_model(), tmp_path, train=[], data=train())
