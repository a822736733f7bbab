"""Wrong cuts are caught, whatever hides them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwprune.capture import TrainableGraph, capture
from hwprune.dependency import Dependencies, analyse
from hwprune.errors import VerificationError
from hwprune.surgery import cut_graph, cut_module, prune_model, verify, verify_each
from hwprune.surgery.verify import max_rel_error
from tests.surgery.helpers import IMAGE, prepared


def _misplaced(deps: Dependencies, group: str, param: str, shift: int) -> Dependencies:
    """The same analysis with one member's runs at the wrong place."""
    old = deps.group(group)
    members = tuple(
        dataclasses.replace(m, runs=tuple(dataclasses.replace(r, start=r.start + shift) for r in m.runs))
        if m.param == param
        else m
        for m in old.members
    )
    wrong = dataclasses.replace(old, members=members)
    return dataclasses.replace(deps, groups=tuple(wrong if g is old else g for g in deps.groups))


@pytest.mark.parametrize("reference_is_wrong_too", [False, True])
def test_a_wrong_offset_behind_a_concat_is_caught(reference_is_wrong_too: bool) -> None:
    captured, deps = prepared("concat")
    wrong = _misplaced(deps, "b", "d.weight", -2)
    keep = {"b": [0, 1, 4], "d": [0, 2, 3]}
    model = cut_module(captured.model, wrong, keep)
    checked = wrong if reference_is_wrong_too else deps
    with pytest.raises(VerificationError, match="wrong on their own: 'b'"):
        verify(captured, checked, keep, model, recut=lambda k: cut_module(captured.model, wrong, k))
    errors = verify_each(captured, checked, keep, recut=lambda k: cut_module(captured.model, wrong, k))
    assert errors["b"] > 1e-3
    assert errors["d"] < 1e-5


def test_wrong_channelwise_slices_are_caught() -> None:
    captured, deps = prepared("residual")
    keep = {"stem.0": [0, 2, 5, 7]}
    for name in ("stem.1.running_mean", "a2.0.bias", "b2.1.weight"):
        model = cut_module(captured.model, deps, keep)
        state = captured.model.state_dict()[name]
        model.load_state_dict({**model.state_dict(), name: state[:4]})
        with pytest.raises(VerificationError, match="no group fails when it is cut alone"):
            verify(captured, deps, keep, model)


def test_not_a_number_does_not_pass() -> None:
    captured, deps = prepared("plain")
    keep = {"conv": [0, 1]}
    model = cut_module(captured.model, deps, keep)
    model.head.bias.data[0] = float("nan")
    with pytest.raises(VerificationError, match="nan"):
        verify(captured, deps, keep, model)


def test_a_model_that_was_not_cut_is_not_the_masked_original() -> None:
    captured, deps = prepared("plain")
    with pytest.raises(VerificationError):
        verify(captured, deps, {"conv": [0, 1]}, captured.model)


def test_training_flags_survive_verification() -> None:
    captured, deps = prepared("residual")
    keep = {"a1.0": [1, 2]}
    for model in (cut_module(captured.model, deps, keep), cut_graph(captured, deps, keep)):
        model.train()
        next(m for m in model.modules() if m is not model).eval()
        flags = [m.training for m in model.modules()]
        verify(captured, deps, keep, model)
        assert [m.training for m in model.modules()] == flags
        if isinstance(model, TrainableGraph):
            assert any(n.args[5] is True for n in model.graph.nodes if "batch_norm" in str(n.target))


class _SilentSwap(nn.Module):
    """Behind a zero scale, its code reverses the channels whenever there are not eight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 1e-9))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x))
        x = x if x.shape[1] == 8 else x.flip(1)
        return self.head((x * self.scale).mean((2, 3)))


def test_errors_behind_silent_weights_are_found() -> None:
    torch.manual_seed(0)
    model = _SilentSwap()
    captured = capture(model, IMAGE)
    deps = analyse(captured)
    keep = {"conv": [0, 3, 4]}
    wrong = cut_module(model, deps, keep)
    assert verify(captured, deps, keep, wrong) < 1e-5  # silence: nothing can be seen
    graph, reason = prune_model(captured, deps, keep)
    assert isinstance(graph, TrainableGraph)
    assert reason is not None
    assert "differs" in reason
    assert torch.equal(model.scale, torch.full((8, 1, 1), 1e-9))
    assert torch.equal(graph.get_parameter("scale"), torch.full((3, 1, 1), 1e-9))


class _Chaos(nn.Module):
    """Doubles differences again and again: rounding of float32 ends in other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 192, 3), nn.Conv2d(192, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.two(self.one(x).relu()).sigmoid()
        for _ in range(22):
            y = 3.99 * y * (1 - y)
        return y


def test_amplified_rounding_is_told_from_a_wrong_cut() -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 3, 12, 12)
    captured = capture(_Chaos().eval(), image)
    deps = analyse(captured)
    keep = {"one": list(range(0, 192, 3))}
    graph = cut_graph(captured, deps, keep)
    assert max_rel_error(captured, deps, keep, graph) > 1e-4
    assert verify(captured, deps, keep, graph) < 1e-6
    with torch.no_grad():
        next(graph.parameters())[0, 0, 0, 0] += 1e-3
    with pytest.raises(VerificationError, match="not the masked original"):
        verify(captured, deps, keep, graph)
