"""Layers that pick their input channels: equal to deaf ones, fitted, saved, captured again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

import hwprune
from hwprune.capture import capture
from hwprune.errors import SurgeryError
from hwprune.pruned import Subject
from hwprune.repair import RepairOptions
from hwprune.surgery.compare import max_difference
from hwprune.surgery.sampler import branch_entries, chosen_channels, deaf, sampled
from tests.nets import NETS, settle
from tests.plans import plan_for
from tests.surgery.helpers import IMAGE, prepared

PICKED = {"a1.0": (0, 1, 5), "b1.0": (2, 3, 4, 7), "shortcut": (6,)}


def residual(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return settle(NETS["residual"]()).eval()


def cut(model: nn.Module, keep: dict[str, list[int]]) -> hwprune.Pruned:
    subject = Subject.open(model, IMAGE)
    return hwprune.apply_plan(model, IMAGE, plan_for(model, subject.deps, keep))


def test_entries_of_branches_are_found() -> None:
    captured, _ = prepared("residual")
    assert branch_entries(captured.graph) == ("a1.0", "b1.0", "c1.0", "shortcut")


@pytest.mark.parametrize("graph", [False, True])
def test_a_sampled_layer_equals_one_that_is_deaf(graph: bool) -> None:
    model: nn.Module = prepared("residual")[0].graph if graph else residual()
    smaller = sampled(model, PICKED)
    assert max_difference(deaf(model, PICKED), smaller, (IMAGE,)) < 1e-6
    assert max_difference(model, smaller, (IMAGE,)) > 1e-3
    assert smaller.get_parameter("b1.0.weight").shape == (4, 4, 3, 3)
    assert isinstance(smaller, fx.GraphModule) == graph
    if not graph:
        assert isinstance(smaller.get_submodule("b1.0"), nn.Conv2d)
        assert smaller.get_submodule("b1.0").in_channels == 4
    again = capture(smaller, IMAGE)
    assert max_difference(again.graph, smaller, (IMAGE,)) < 1e-6


def test_a_number_takes_the_largest_weights() -> None:
    model = residual()
    with torch.no_grad():
        weight = model.get_parameter("c1.0.weight")
        weight[:, [1, 6]] *= 100
    assert chosen_channels(model, {"c1.0": 2}) == {"c1.0": (1, 6)}


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"nosuch": 2}, "no layer 'nosuch'"),
        ({"a1.1": 2}, "BatchNorm2d"),
        ({"a1.0": 0}, "rising numbers"),
        ({"a1.0": [3, 1]}, "rising numbers from 0 to 7"),
        ({"a1.0": [8]}, "rising numbers"),
    ],
)
def test_what_cannot_be_sampled_is_refused(channels: dict[str, Any], message: str) -> None:
    with pytest.raises(SurgeryError, match=message):
        sampled(residual(), channels)
    with pytest.raises(SurgeryError, match="Conv2d"):
        sampled(settle(NETS["grouped"]()), {"grouped.0": (0, 1)})
    with pytest.raises(SurgeryError, match="already"):
        sampled(sampled(residual(), {"a1.0": (0, 1, 4)}), {"a1.0": (0, 2)})


def test_sampled_layers_are_fitted_and_saved(tmp_path: Path) -> None:
    """Channels 2 and 5 of the stem are twins: a layer that reads only one of them loses nothing."""
    model = residual().double()
    with torch.no_grad():
        for tensor in (*model.stem.parameters(), model.stem[1].running_mean, model.stem[1].running_var):  # type: ignore[union-attr, index]
            tensor[5] = tensor[2]
    image = IMAGE.double()
    subject = Subject.open(model, image)
    pruned = hwprune.apply_plan(model, image, plan_for(model, subject.deps, {}))
    entry = pruned.sample({"a1.0": [0, 1, 2, 3, 4, 6, 7]})
    assert pruned.model.get_parameter("a1.0.weight").shape[1] == 8
    assert max_difference(model, entry.model, (image,)) > 1e-3
    data = [torch.randn(16, 3, 8, 8, dtype=torch.float64) for _ in range(3)]
    found = entry.repair(data, RepairOptions(ridge=0.0, recalibrate=False))
    assert [layer.weight for layer in found.repairs[0].layers] == ["a1.0.weight"]
    assert max_difference(model, found.model, (image,)) < 1e-8
    hwprune.save(found, tmp_path / "saved")
    loaded = hwprune.load(tmp_path / "saved", lambda: NETS["residual"]().double())
    assert max_difference(found.model, loaded, (image,)) == 0.0


def test_pruned_and_sampled_layers_are_fitted_together() -> None:
    model = residual()
    keep = {"stem.0": [0, 2, 4, 6, 7], "a1.0": [0, 1, 2]}
    data = [torch.randn(32, 3, 8, 8) for _ in range(4)]
    found = cut(model, keep).sample({"a1.0": 3, "c1.0": [0, 1, 3]}).repair(data)
    assert found.samplers["c1.0"] == (0, 1, 3) and len(found.samplers["a1.0"]) == 3
    by_name = {layer.weight: layer for layer in found.repairs[0].layers}
    assert by_name["a1.0.weight"].columns == 27
    assert all(layer.after <= layer.before for layer in by_name.values())
