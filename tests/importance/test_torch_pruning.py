"""Scores beside those of Torch-Pruning, where it means the same.

Its scores of a group take the layers that read the group in, too; ``group_reduction="first"`` leaves the
layer that is asked about. Its p=2 norms are squares, its distances (FPGM) are between powers of the
absolute weights, and it works in single precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.dependency.groups import ChannelGroup, Dependencies
from hwprune.importance import score
from hwprune.importance.registry import available
from tests.importance.nets import analysed
from tests.nets import NETS, settle

tp: Any = pytest.importorskip("torch_pruning")

INPUT = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3])


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return settle(NETS[name]()).double().eval()


def _layers(deps: Dependencies, model: nn.Module, role: str) -> Iterator[tuple[ChannelGroup, nn.Module]]:
    """Groups with one producer and one consumer whose units are channels, and the layer of a role."""
    for group in deps.groups:
        roles = [m.role for m in group.members if m.role != "channelwise"]
        if sorted(roles) != ["consumer", "producer"] or group.channels_per_unit != 1:
            continue
        member = next(m for m in group.members if m.role == role)
        layer = model.get_submodule(member.param.rpartition(".")[0])
        plain = getattr(layer, "groups", 1) == 1 and layer.weight.shape[member.dim] == group.size
        if plain:
            yield group, layer


def _theirs(importance: Any, model: nn.Module, layer: nn.Module, side: str) -> Tensor:
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=INPUT)
    kind = "conv" if isinstance(layer, nn.Conv2d) else "linear"
    size = layer.weight.shape[0 if side == "out" else 1]
    pruning = getattr(tp, f"prune_{kind}_{side}_channels")
    return importance(graph.get_pruning_group(layer, pruning, idxs=list(range(size)))).double()


def _same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours / ours.mean(), theirs / theirs.mean(), rtol=2e-5, atol=1e-6)


def _importance(criterion: str) -> Any:
    power = {"l1": 1, "fpgm": 1}.get(criterion, 2)
    kind = {"fpgm": tp.importance.FPGMImportance, "lamp": tp.importance.LAMPImportance}.get(criterion)
    if criterion == "lamp":
        return kind(p=power, group_reduction="first")
    return (kind or tp.importance.GroupMagnitudeImportance)(p=power, group_reduction="first", normalizer=None)


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm", "lamp"])
@pytest.mark.parametrize("name", ["plain", "residual", "concat", "gate"])
def test_scores_of_filters(name: str, criterion: str) -> None:
    model = _model(name)
    if criterion == "fpgm":
        # Its distances are between absolute values; without signs they are those between filters.
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.data.abs_()
    captured, deps = analysed(model, INPUT)
    ours = score(captured, deps, criterion)
    compared = 0
    for group, layer in _layers(deps, model, "producer"):
        theirs = _theirs(_importance(criterion), model, layer, "out")
        _same(ours[group.name], theirs.sqrt() if criterion == "l2" else theirs)
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize("name", ["residual", "depthwise", "plain"])
def test_scales_of_batchnorms_over_a_whole_group(name: str) -> None:
    model = _model(name)
    captured, deps = analysed(model, INPUT)
    ours = score(captured, deps, "bn_scale")
    importance = tp.importance.BNScaleImportance(group_reduction="sum", normalizer=None)
    compared = 0
    for group in deps.groups:
        producer = next(m for m in group.members if m.role == "producer")
        layer = model.get_submodule(producer.param.rpartition(".")[0])
        if any("running_mean" in m.param for m in group.members) and group.channels_per_unit == 1:
            theirs = _theirs(importance, model, layer, "out")
            torch.testing.assert_close(ours[group.name], theirs, rtol=2e-5, atol=1e-6)
            compared += 1
    assert compared >= {"residual": 4, "depthwise": 2, "plain": 1}[name]


@pytest.mark.parametrize("name", ["plain", "residual", "concat"])
def test_first_order_changes_of_the_loss(name: str) -> None:
    model = _model(name)
    captured, deps = analysed(model, INPUT)
    ours = score(captured, deps, "taylor2019", [(INPUT, LABELS)])
    F.cross_entropy(model(INPUT), LABELS).backward()
    importance = tp.importance.GroupTaylorImportance(
        group_reduction="first", normalizer=None, multivariable=True
    )
    compared = 0
    for group, layer in _layers(deps, model, "consumer"):
        theirs = _theirs(importance, model, layer, "in")
        torch.testing.assert_close(ours[group.name].sqrt(), theirs, rtol=2e-5, atol=1e-7)
        compared += 1
    assert compared >= 1


def test_what_is_compared_exists() -> None:
    assert {"l1", "l2", "fpgm", "lamp", "bn_scale", "taylor2019"} <= set(available())
