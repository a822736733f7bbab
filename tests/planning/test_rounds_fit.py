"""Layers that are fitted between a cut and the training behind it, in every round."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import hwprune
from hwprune.errors import RepairError, UsageError
from hwprune.planning.asked import IterativeOptions
from hwprune.planning.iterative import Iterated
from hwprune.planning.rounds import STATE_FILE
from hwprune.pruned import Pruned
from hwprune.repair import FinetuneOptions, finetune
from hwprune.repair.checkpoint import load_checkpoint, save_checkpoint
from hwprune.repair.options import RepairOptions
from tests.small import SHAPE, Small, evaluation, train

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("fake_device")
IMAGE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
PLAIN = IterativeOptions(
    rounds=2,
    schedule="linear",
    every=2,
    repair=None,
    finetune=FinetuneOptions(steps=3, steps_per_epoch=3, lr=0.005),
)
WIDTH = 48
FIT = PLAIN.model_copy(update={"repair": RepairOptions(examples=40)})


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    model = Small(WIDTH)
    finetune(model, train(), options=FinetuneOptions(steps=30, lr=0.05, weight_decay=0.0))
    return model.state_dict()


def _model(trained: dict[str, Tensor]) -> nn.Module:
    model = Small(WIDTH)
    model.load_state_dict(trained)
    return model.eval()


def _loader(*, own: bool = True) -> DataLoader[tuple[Tensor, ...]]:
    """The training batches in an order that a generator of its own draws, or the global one."""
    images, labels = (torch.cat(part) for part in zip(*train(), strict=True))
    generator = torch.Generator().manual_seed(5) if own else None
    return DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True, generator=generator)


def _metric(model: nn.Module) -> float:
    return -float(torch.stack([F.cross_entropy(model(x), y) for x, y in evaluation()]).mean())


def _run(model: nn.Module, tables: Path, **more: Any) -> Iterated:
    given: dict[str, Any] = {"latency": "40%", "options": FIT, "checks": 0, "evaluate": _metric} | more
    if "train" not in given:
        given["train"] = _loader()
    return hwprune.prune_iteratively(model, IMAGE, tables=tables, **given)


def test_a_fit_wins_back_what_a_cut_cost_and_is_to_the_model_of_before_the_cut(
    trained: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[dict[str, Tensor]] = []
    origins: list[dict[str, Tensor]] = []
    repair: Callable[..., Pruned] = Pruned.repair

    def spy(self: Pruned, *args: Any, **kwargs: Any) -> Pruned:
        origins.append({name: value.clone() for name, value in self.original.state_dict().items()})
        return repair(self, *args, **kwargs)

    def note(model: nn.Module) -> float:
        stages.append({name: value.clone() for name, value in model.state_dict().items()})
        return _metric(model)

    monkeypatch.setattr(Pruned, "repair", spy)
    model, random = _model(trained), torch.get_rng_state()
    told: list[str] = []
    found = _run(model, tmp_path, evaluate=note, progress=lambda what, done, total: told.append(what))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    for each in found.rounds:
        assert each.cut_metric is not None and each.fitted_metric is not None and each.fit is not None
        assert each.fitted_metric > each.cut_metric + 0.05
        assert each.fit["examples"] == 40 and each.fit["batchnorms"] == 3
        assert each.fit["layers"] and all(layer["after"] <= layer["before"] for layer in each.fit["layers"])
    # Examples and positions are drawn anew.
    assert [each.fit["options"]["seed"] for each in found.rounds if each.fit is not None] == [0, 1]
    # Dense, then cut, fitted and trained in each of two rounds.
    assert len(stages) == 7 and len(origins) == 2
    for origin, before in zip(origins, (stages[0], stages[3]), strict=True):
        assert all(torch.equal(origin[name], value) for name, value in before.items())
    assert {"round 1: fit head.weight", "round 2: recalibrate"} <= set(told)

    (record,) = found.pruned.history
    assert record["options"]["repair"]["examples"] == 40
    assert record["rounds"][1]["fit"] == found.rounds[1].fit
    hwprune.save(found.pruned, tmp_path / "saved")
    (kept,) = json.loads((tmp_path / "saved/plan.json").read_text())["payload"]["repairs"]
    assert kept["rounds"][1]["fitted_metric"] == found.rounds[1].fitted_metric
    again = hwprune.load(tmp_path / "saved", lambda: Small(WIDTH))
    torch.testing.assert_close(again.eval()(IMAGE), found.pruned.model.eval()(IMAGE))


@pytest.mark.parametrize("own", [True, False])
def test_a_run_that_was_stopped_in_or_behind_a_fit_ends_like_one_that_was_not(
    own: bool, trained: dict[str, Tensor], tmp_path: Path
) -> None:
    whole = _run(_model(trained), tmp_path, train=_loader(own=own))
    stops = [
        # Nothing but the state of the cut is on disk: training has written nothing yet.
        ("round 1: train", 1, RuntimeError),
        ("round 2: recalibrate", 0, KeyboardInterrupt),
        ("round 2: train", 2, KeyboardInterrupt),
    ]
    for what, at, error in stops if own else stops[1:2]:

        def stop(said: str, done: int, total: int, wanted: Any = (what, at, error)) -> None:
            if (said, done) == wanted[:2]:
                raise wanted[2]

        model = _model(trained)
        torch.manual_seed(99)  # decides on nothing
        with pytest.raises(error):
            _run(model, tmp_path, train=_loader(own=own), checkpoint=tmp_path / "run", progress=stop)
    found = _run(_model(trained), tmp_path, train=_loader(own=own), checkpoint=tmp_path / "run")
    assert found.rounds == whole.rounds
    for name, value in whole.pruned.model.state_dict().items():
        assert torch.equal(found.pruned.model.state_dict()[name], value), name
    # Nor does a run with another fit go on from there.
    for other in (PLAIN, FIT.model_copy(update={"repair": RepairOptions(examples=40, ridge=0.1)})):
        with pytest.raises(RepairError, match="was written with other options"):
            _run(_model(trained), tmp_path, train=_loader(), checkpoint=tmp_path / "run", options=other)


def test_a_run_from_before_there_were_fits_goes_on(trained: dict[str, Tensor], tmp_path: Path) -> None:
    whole = _run(_model(trained), tmp_path, options=PLAIN)
    assert all(each.fitted_metric is None and each.fit is None for each in whole.rounds)
    where = tmp_path / "run"

    def stop(said: str, done: int, total: int) -> None:
        if said == "round 2: plan":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(_model(trained), tmp_path, options=PLAIN, checkpoint=where, progress=stop)
    tensors, scalars = load_checkpoint(where / STATE_FILE)
    scalars["options"]["options"].pop("repair", None)
    for each in scalars["rounds"]:
        del each["fitted_metric"], each["fit"]
    save_checkpoint(where / STATE_FILE, tensors, scalars)
    assert _run(_model(trained), tmp_path, options=PLAIN, checkpoint=where).rounds == whole.rounds


def test_how_a_fit_is_asked_for(trained: dict[str, Tensor], tmp_path: Path) -> None:
    assert IterativeOptions().repair == RepairOptions()
    asked = IterativeOptions.model_validate({"repair": "least-squares:examples=64"})
    assert asked.repair == RepairOptions(examples=64)
    assert IterativeOptions.model_validate_json(asked.model_dump_json()) == asked
    with pytest.raises(UsageError, match="option 'method' of the repair is 'lasso'"):
        IterativeOptions.model_validate({"repair": "lasso"})
    with pytest.raises(UsageError, match="option 'examples' of the repair"):
        IterativeOptions.model_validate({"repair": "scales:examples=0"})
    broken = [(x / 0.0, y) for x, y in train()]
    with pytest.raises(RepairError, match=r"batch 0 of the data for the repair .* not finite"):
        _run(_model(trained), tmp_path, train=broken, data=train())
