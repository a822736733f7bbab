"""What criteria of activations do with data and groups that they cannot use."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from hwprune.errors import CriterionError
from hwprune.importance import describe, score
from tests.importance.transformer import Block, analysed, images
from tests.nets import NETS, settle

CRITERIA = ("chip", "lasso", "nisp", "relief", "thinet", "wanda")
READING = ("lasso", "relief", "thinet", "wanda")


def _network() -> Any:
    torch.manual_seed(0)
    return analysed(settle(NETS["residual"]()))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_model_is_left_as_it_was_and_scores_fit_every_group(criterion: str) -> None:
    for captured, deps in (_network(), analysed(Block())):
        captured.graph.train()
        state = {name: value.clone() for name, value in captured.graph.state_dict().items()}
        with torch.inference_mode(False), torch.no_grad():
            found = score(captured, deps, criterion, [(images(4), torch.zeros(4)), images(2, 1)])
        assert {name: len(value) for name, value in found.items()} == deps.dense_widths
        assert all((value >= 0).all() and value.unique().numel() > 1 for value in found.values())
        assert captured.graph.training
        assert all(torch.equal(state[n], v) for n, v in captured.graph.state_dict().items())
        assert all(p.grad is None for p in captured.graph.parameters())
        again = score(captured, deps, criterion, [images(4), images(2, 1)])
        assert all(torch.equal(found[name], value) for name, value in again.items())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_one_example_is_enough(criterion: str) -> None:
    captured, deps = _network()
    found = score(captured, deps, criterion, [images(1)])
    assert all(bool((value > 0).any()) for value in found.values())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_data_that_cannot_be_used(criterion: str) -> None:
    captured, deps = _network()
    bad = images(2)
    bad[1, 0, 0, 0] = float("nan")
    with pytest.raises(CriterionError, match=r"not finite|NaN or infinite"):
        score(captured, deps, criterion, [images(2), bad])
    with pytest.raises(CriterionError, match=rf"{criterion} cannot run the model .*\(2, 4, 8, 8\)"):
        score(captured, deps, criterion, [torch.zeros(2, 4, 8, 8, dtype=torch.float64)])
    with pytest.raises(CriterionError, match="empty"):
        score(captured, deps, criterion, [])
    with pytest.raises(CriterionError, match="needs unlabelled data"):
        score(captured, deps, criterion)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_constant_images_give_scores(criterion: str) -> None:
    captured, deps = _network()
    found = score(captured, deps, criterion, [torch.ones(4, 3, 8, 8, dtype=torch.float64)])
    assert all(bool((value > 0).any()) for value in found.values())


@pytest.mark.parametrize("criterion", ["lasso", "relief", "thinet", "wanda", "chip"])
def test_groups_in_which_nothing_speaks_are_named(criterion: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1.0)
    captured, deps = analysed(model)
    with caplog.at_level(logging.WARNING, "hwprune"):
        found = score(captured, deps, criterion, [images()])
    assert "group 0" in caplog.text and "alike" in caplog.text
    assert criterion == "thinet" or not found["0"].any()


@pytest.mark.parametrize("criterion", READING)
def test_groups_that_no_layer_reads_fall_back_on_their_activations(
    criterion: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    captured, deps = analysed(model)
    group = deps.groups[0]
    bare = replace(group, members=tuple(m for m in group.members if m.role != "consumer"))
    data = [images(4), images(2, 1)]
    with caplog.at_level(logging.WARNING, "hwprune"):
        found = score(captured, replace(deps, groups=(bare, *deps.groups[1:])), criterion, data)
    assert "stand in for groups" in caplog.text and group.name in caplog.text
    maps = torch.cat([model[:2](x) for x in data]).detach()
    torch.testing.assert_close(found[group.name], maps.square().mean((0, 2, 3)).sqrt())
    with pytest.raises(CriterionError, match=f"group {group.name} has no tensor"):
        score(captured, replace(deps, groups=(replace(bare, taps=()),)), criterion, data)


@pytest.mark.parametrize("criterion", ["chip", "nisp"])
def test_groups_without_a_tap_are_refused(criterion: str) -> None:
    captured, deps = _network()
    bare = replace(deps, groups=(replace(deps.groups[0], taps=()), *deps.groups[1:]))
    with pytest.raises(CriterionError, match="has no tensor that carries all of its channels"):
        score(captured, bare, criterion, [images()])


def test_layers_of_other_kinds_are_named(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3), nn.Flatten(), nn.Linear(256, 2)
    )
    captured, deps = analysed(model)
    with caplog.at_level(logging.WARNING, "hwprune"):
        found = score(captured, deps, "wanda", [images()])
    assert "2.weight reads group 0, but is no convolution" in caplog.text
    assert (found["0"] > 0).any()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_criteria_describe_themselves(criterion: str) -> None:
    found = describe(criterion)
    assert found.data_need == "unlabelled" and found.cost and found.formula and found.paper
    expected = "normalised" if criterion in ("relief", "wanda") else "within_group"
    assert found.comparability == expected
