"""The sensitivity scan: against cutting by hand, and what it says of layers that do not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.errors import CriterionError, UsageError
from hwprune.importance import score
from hwprune.planner.curves.sensitivity import Sensitivity, sensitivity_scan
from hwprune.repair.accuracy import evaluate_accuracy
from hwprune.solve.domains import keep_best
from hwprune.surgery import masked_original
from tests.nets import NETS, settle
from tests.surgery.helpers import IMAGE, prepared

Data = list[tuple[torch.Tensor, torch.Tensor]]


def _data(classes: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % classes) for _ in range(3)]


def _labelled_by(model: nn.Module, classes: int) -> Data:
    """Data that the model gets right, all of it."""
    return [(x, model(x).argmax(1).detach()) for x, _ in _data(classes)]


def test_values_are_those_of_models_cut_by_hand() -> None:
    captured, deps = prepared("residual")
    data = _data(5)
    seen: list[tuple[int, int]] = []
    found = sensitivity_scan(
        captured,
        deps,
        data,
        shares=(0.5, 0.25),
        measure="loss",
        batches=2,
        progress=lambda *a: seen.append(a[1:]),
    )
    assert found.groups.keys() == deps.dense_widths.keys()
    order = score(captured, deps, "l1")
    for group in deps.groups:
        assert list(found.groups[group.name]) == [group.size, group.size // 2, max(1, round(group.size / 4))]
        for width, value in found.groups[group.name].items():
            keep = {g.name: range(g.size) for g in deps.groups}
            keep[group.name] = keep_best(order[group.name].numpy(), width)
            model = masked_original(captured, deps, keep)
            losses = [F.cross_entropy(model(x), y).item() for x, y in data[:2]]
            assert value == pytest.approx(np.mean(losses), rel=1e-4)
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_accuracy_and_what_matters() -> None:
    torch.manual_seed(0)
    model = settle(NETS["residual"]()).eval()
    # Without this it answers everything alike.
    model.head.bias.data -= torch.cat([model(x) for x, _ in _data(5)]).detach().mean(0)
    captured = capture(model, IMAGE)
    deps = analyse(captured)
    data = _labelled_by(captured.graph, 5)
    found = sensitivity_scan(captured, deps, data, shares=(0.5,))
    assert found.dense == evaluate_accuracy(captured.graph, data) == 1.0
    losses = {name: harm[min(harm)] for name, harm in ((g, found.harm(g)) for g in found.groups)}
    assert max(losses.values()) > 0.0 and min(losses.values()) >= 0.0
    by_hand = {}
    for name, size in deps.dense_widths.items():
        keep = {g.name: range(g.size) for g in deps.groups}
        keep[name] = keep_best(score(captured, deps, "l1")[name].numpy(), size // 2)
        by_hand[name] = 1.0 - evaluate_accuracy(masked_original(captured, deps, keep), data)
    assert losses == pytest.approx(by_hand)
    assert losses[found.most_sensitive()[0]] == max(losses.values())


def test_own_scores_decide_what_is_kept() -> None:
    captured, deps = prepared("plain")
    data = _labelled_by(captured.graph, 5)
    best = {g.name: score(captured, deps, "taylor2019", data)[g.name] for g in deps.groups}
    worst = {name: -value for name, value in best.items()}
    good, bad = (
        sensitivity_scan(captured, deps, data, scores=scores, shares=(0.5,), measure="loss")
        for scores in (best, worst)
    )
    harm = [sum(min(s.harm(g).items())[1] for g in s.groups) for s in (good, bad)]
    assert harm[0] < harm[1]


def test_the_nearest_measured_width_counts() -> None:
    found = Sensitivity("loss", 1.0, {"a": {10: 1.0, 5: 1.5, 1: 9.0}, "b": {8: 1.0, 4: 1.7, 1: 2.0}})
    assert found.most_sensitive() == ("b", "a")
    assert found.most_sensitive(0.1) == ("a", "b")
    assert found.harm("a") == {10: 0.0, 5: 0.5, 1: 8.0}


def test_wrong_input_is_refused() -> None:
    captured, deps = prepared("plain")
    data = _data(5)
    for arguments, message in (
        ({"shares": ()}, "shares to keep are"),
        ({"shares": (0.5, 1.0)}, "shares to keep are"),
        ({"measure": "speed"}, "no scan of 'speed'"),
        ({"loss": F.mse_loss}, "an own loss beside"),
    ):
        with pytest.raises(UsageError, match=message):
            sensitivity_scan(captured, deps, data, **arguments)  # type: ignore[arg-type]
    with pytest.raises(CriterionError, match="needs a class number"):
        sensitivity_scan(captured, deps, [x for x, _ in data])
    with pytest.raises(CriterionError, match="needs labels"):
        sensitivity_scan(captured, deps, [x for x, _ in data], measure="loss")
    with pytest.raises(CriterionError, match="empty"):
        sensitivity_scan(captured, deps, [])
    with pytest.raises(CriterionError, match=r"scores of group stem\.0 have shape \(0,\)"):
        sensitivity_scan(captured, deps, data, scores={})
    with pytest.raises(CriterionError, match="the loss is nan"):
        sensitivity_scan(captured, deps, [(x * np.nan, y) for x, y in data], measure="loss")
