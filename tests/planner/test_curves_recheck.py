"""The last look at a plan: whoever has the least loss after the repair is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.dependency.blocks import find_blocks
from hwprune.errors import PlanError
from hwprune.planner.curves.meter import Meter
from hwprune.planner.curves.recheck import choose_by_loss, loss_of_choices
from hwprune.repair import FinetuneOptions, finetune, recalibrate_batchnorm
from hwprune.solve.domains import keep_best
from hwprune.solve.problem import Choice
from hwprune.surgery import cut_graph
from hwprune.surgery.blocks import remove_blocks
from tests.small import Small, batches
from tests.surgery.helpers import prepared

EXACT, UNIFORM, GREEDY = Choice({"a": 1, "b": 9}), Choice({"a": 5, "b": 5}), Choice({"a": 9, "b": 1})


def test_the_preferred_plan_stays_unless_a_rival_is_clearly_better() -> None:
    losses = {"exact": 1.0, "uniform": 0.995, "greedy": 1.2}
    table = {1: losses["exact"], 5: losses["uniform"], 9: losses["greedy"]}
    candidates = {"exact": EXACT, "uniform": UNIFORM, "greedy": GREEDY}
    found = choose_by_loss(candidates, lambda c: table[c.widths["a"]])
    assert (found.name, found.choice, found.replaced) == ("exact", EXACT, False)
    assert dict(found.losses) == losses
    found = choose_by_loss(candidates, lambda c: table[c.widths["a"]], margin=0.001, dense_loss=0.5)
    assert (found.name, found.choice, found.replaced) == ("uniform", UNIFORM, True)
    assert found.summary() == (
        "the uniform plan has the held-out loss 0.995 after repair (beside exact 1, greedy 1.2; dense 0.5): "
        "it takes the place of the exact plan"
    )


def test_a_ruined_plan_loses_to_any_other_and_negative_losses_have_a_margin_too() -> None:
    pair = {"exact": EXACT, "uniform": UNIFORM}
    assert choose_by_loss(pair, lambda c: float("inf") if c is EXACT else 7.0).name == "uniform"
    assert choose_by_loss(pair, lambda c: -1.0 if c is EXACT else -1.001).name == "exact"
    assert choose_by_loss(pair, lambda c: -1.0 if c is EXACT else -2.0).name == "uniform"


def test_equal_plans_are_measured_once() -> None:
    seen: list[Choice] = []
    same = Choice(dict(EXACT.widths))
    found = choose_by_loss({"exact": EXACT, "greedy": same}, lambda c: seen.append(c) or 1.0)
    assert len(seen) == 1 and found.losses == {"exact": 1.0, "greedy": 1.0}
    shorter = Choice(EXACT.widths, frozenset({"block"}))
    choose_by_loss({"exact": EXACT, "greedy": shorter}, lambda c: seen.append(c) or 1.0)
    assert len(seen) == 3


def test_bad_candidates_are_refused() -> None:
    with pytest.raises(PlanError, match="no plan to check"):
        choose_by_loss({}, lambda c: 1.0)
    with pytest.raises(PlanError, match="uniform plan is NaN"):
        choose_by_loss({"exact": EXACT, "uniform": UNIFORM}, lambda c: 1.0 if c is EXACT else float("nan"))
    with pytest.raises(PlanError, match="no plan has a finite"):
        choose_by_loss({"exact": EXACT}, lambda c: float("inf"))


def test_a_choice_is_carried_out_as_surgery_does_it() -> None:
    captured, deps = prepared("residual")
    block = next(b for b in find_blocks(captured, deps) if b.reason is None and b.groups)
    generator = torch.Generator().manual_seed(3)
    data = [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 5) for _ in range(2)]
    scores = {g.name: np.random.default_rng(1).random(g.size) for g in deps.groups}
    evaluate = loss_of_choices(Meter(captured, deps, data), scores, blocks=[block])
    widths = {g.name: 0 if g.name in block.groups else g.size // 2 for g in deps.groups}
    model, _, _ = remove_blocks(captured, [block])
    again = capture(model, captured.example_inputs)
    left = analyse(again)
    keep = {g.name: keep_best(scores[g.name], widths[g.name]) for g in left.groups if widths[g.name]}
    graph = cut_graph(again, left, keep)
    recalibrate_batchnorm(graph, data)
    with torch.no_grad():
        expected = sum(float(F.cross_entropy(graph(x), y)) for x, y in data) / 2
    assert evaluate(Choice(widths, frozenset({block.name}))) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(PlanError, match="'nowhere', which is not among"):
        evaluate(Choice(widths, frozenset({"nowhere"})))


def test_fine_tuning_can_be_the_repair() -> None:
    torch.manual_seed(0)
    model = Small()
    finetune(model, batches(8), options=FinetuneOptions(optimizer="adamw", lr=0.01, steps=30))
    captured = capture(model.eval(), torch.randn(1, 1, 8, 8))
    deps = analyse(captured)
    scores = {g.name: np.random.default_rng(1).random(g.size) for g in deps.groups}
    names = [g.name for g in deps.groups]
    thin = Choice(dict.fromkeys(names, 2))
    wide = Choice(dict.fromkeys(names, 16))
    meter = Meter(captured, deps, batches(2, 1))
    plain = loss_of_choices(meter, scores)
    assert choose_by_loss({"thin": thin, "wide": wide}, plain).name == "wide"

    def repair(smaller: nn.Module) -> None:
        finetune(smaller, batches(8), options=FinetuneOptions(optimizer="adamw", lr=0.01, steps=20))

    tuned = loss_of_choices(meter, scores, repair=repair)
    assert tuned(thin) < plain(thin) and tuned(wide) < plain(wide)
