"""Rounds by a criterion that has its say on widths: it sees all batches before each cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import hwprune
from hwprune.errors import BudgetError
from hwprune.importance import gradient_redundancy, score
from hwprune.planning import iterating
from hwprune.planning.asked import IterativeOptions
from hwprune.planning.iterative import Iterated
from hwprune.planning.prepared import Prepared
from hwprune.repair import FinetuneOptions, finetune
from tests.small import SHAPE, Small, batches, train

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("fake_device")
IMAGE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
DATA = batches(8)
TRAINING = FinetuneOptions(steps=2, steps_per_epoch=2, lr=0.005)


@pytest.fixture(scope="module")
def model() -> Small:
    model = Small(64)
    finetune(model, train(), options=FinetuneOptions(steps=30, lr=0.05, weight_decay=0.0))
    return model.eval()


def _run(model: Small, tables: Path, floors: Any, latency: str, rounds: int) -> Iterated:
    return hwprune.prune_iteratively(
        model,
        IMAGE,
        latency=latency,
        train=DATA,
        criterion=f"gradient_matrix:floors={floors}",
        options=IterativeOptions(rounds=rounds, schedule="linear", every=1, repair=None, finetune=TRAINING),
        tables=tables,
        checks=0,
    )


def test_floors_are_found_anew_from_all_batches_before_each_cut(
    model: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Prepared, dict[str, int], dict[str, torch.Tensor]]] = []
    prepare = iterating.prepare

    def spy(*args: Any, **kwargs: Any) -> Prepared:
        prepared = prepare(*args, **kwargs)
        captured, deps = prepared.subject.captured, prepared.subject.deps
        # By the weights of now: later they are trained further.
        ranks = {
            name: each.effective(0.9999) for name, each in gradient_redundancy(captured, deps, DATA).items()
        }
        seen.append((prepared, ranks, score(captured, deps, "gradient_matrix", DATA)))
        return prepared

    monkeypatch.setattr(iterating, "prepare", spy)
    found = _run(model, tmp_path, 0.9999, "90%", 2)
    assert len(seen) == 2
    for (prepared, ranks, scores), each in zip(seen, found.rounds, strict=True):
        assert prepared.floors is not None
        (floors,) = prepared.floors.floors
        assert dict(floors.widths) == ranks
        assert all(each.widths[name] >= least for name, least in ranks.items())
        for name, value in scores.items():
            assert (prepared.values[name].argsort() == value.numpy().argsort()).all()
    assert seen[0][1] != seen[1][1]


def test_one_round_makes_the_plan_of_one_go(model: Small, tmp_path: Path) -> None:
    once = hwprune.plan(
        model,
        IMAGE,
        latency="70%",
        data=DATA,
        criterion="gradient_matrix:floors=true",
        tables=tmp_path,
        checks=0,
    ).plan
    rounds = _run(model, tmp_path, "true", "70%", 1).pruned.plan
    assert [(g.kept, g.floor) for g in rounds.groups] == [(g.kept, g.floor) for g in once.groups]
    assert rounds.criterion == once.criterion == "gradient_matrix:floors=true"
    assert [group.floor for group in rounds.groups] != [None] * len(rounds.groups)


def test_floors_that_leave_no_plan_name_their_groups(model: Small, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"floors=0\.9999 leave no plan for a budget of 40%.* of 64"):
        _run(model, tmp_path, 0.9999, "40%", 1)
    with pytest.raises(BudgetError, match="the least reachable latency is") as caught:
        _run(model, tmp_path, 0.9999, "1%", 2)
    assert "leave no plan" not in caught.value.message
