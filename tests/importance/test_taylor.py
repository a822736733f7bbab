"""Gates and the Taylor criterion against identities and finite differences."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwprune.capture import capture
from hwprune.capture.captured import Captured
from hwprune.dependency import Dependencies, Run, Tap, analyse
from hwprune.errors import CriterionError
from hwprune.importance import score, with_gates
from hwprune.importance.gatespace import GateSpace
from hwprune.importance.taylor import Form
from hwprune.importance.units import unit_of_position
from tests.nets import NETS, settle


def _analysed(model: nn.Module) -> tuple[Captured, Dependencies]:
    model = model.double().eval()
    captured = capture(model, torch.randn(4, 3, 8, 8, dtype=torch.float64))
    return captured, analyse(captured)


def _batch(count: int = 4, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.arange(count) % classes


def _chain() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5, 4),
    )
    return settle(model)  # type: ignore[return-value]


@pytest.mark.parametrize("name", NETS)
def test_gates_of_one_change_nothing_and_gates_of_zero_remove_the_tensor(name: str) -> None:
    torch.manual_seed(0)
    captured, deps = _analysed(settle(NETS[name]()))
    gated, gates = with_gates(captured, deps)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(gated(x), captured.graph(x), rtol=0, atol=0)
    before = [node.name for node in captured.graph.graph.nodes]
    assert list(gates) == [g.name for g in deps.groups]
    for group in deps.groups:
        tap = group.taps[-1]
        units = unit_of_position(tap.runs, captured_size(captured, tap.node, tap.dim))
        with torch.no_grad():
            gates[group.name][1] = 0.0
        seen = _value_after(gated, tap.node, x).movedim(tap.dim, 0)
        assert (seen[units == 1] == 0).all() and (units == 1).any()
        assert (seen[units != 1].flatten(1).abs().sum(1) > 0).all()
        with torch.no_grad():
            gates[group.name][1] = 1.0
    assert before == [node.name for node in captured.graph.graph.nodes]


def captured_size(captured: Captured, node: str, dim: int) -> int:
    return next(n for n in captured.graph.graph.nodes if n.name == node).meta["val"].shape[dim]


def _value_after(gated: torch.fx.GraphModule, tap: str, x: torch.Tensor) -> torch.Tensor:
    """Value of the last gate's product behind a tap."""
    node = next(n for n in gated.graph.nodes if n.name == tap)
    while following := [u for u in node.users if u.op == "call_module"]:
        node = following[0]
    values: dict[str, torch.Tensor] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            values[n.name] = result = super().run_node(n)
            return result

    Recorder(gated).run(x)
    return values[node.name]


def test_two_groups_on_one_tap_and_positions_of_no_group() -> None:
    torch.manual_seed(0)
    captured, deps = _analysed(NETS["concat"]())
    cat = next(n.name for n in captured.graph.graph.nodes if "cat" in str(n.target))
    # The concatenation holds 4 channels of a, then 6 of b; the last one of b belongs to nobody here.
    a = replace(deps.group("a"), taps=(Tap(cat, 1, (Run(0, 0, 4),)),))
    b = replace(deps.group("b"), size=5, taps=(Tap(cat, 1, (Run(4, 0, 5),)),))
    gated, gates = with_gates(captured, replace(deps, groups=(a, b)))
    with torch.no_grad():
        gates["a"].copy_(torch.arange(2.0, 6.0))
        gates["b"].copy_(torch.arange(6.0, 11.0))
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    seen = _value_after(gated, cat, x)
    plain, _ = with_gates(captured, replace(deps, groups=(a, b)))
    factor = torch.tensor([2.0, 3, 4, 5, 6, 7, 8, 9, 10, 1], dtype=torch.float64).view(1, -1, 1, 1)
    torch.testing.assert_close(seen, _value_after(plain, cat, x) * factor)


@pytest.mark.parametrize("form", ["gate", "consumers"])
def test_gradient_behind_batchnorm_is_gamma_dgamma_plus_beta_dbeta(form: Form) -> None:
    captured, deps = _analysed(_chain())
    x, y = _batch()
    space = GateSpace(captured, deps, form)
    gradient = space.gradient(F.cross_entropy(space.model(x), y))["0"]
    twin = copy.deepcopy(captured.model)
    F.cross_entropy(twin(x), y).backward()
    bn = twin[1]
    torch.testing.assert_close(gradient, (bn.weight * bn.weight.grad + bn.bias * bn.bias.grad).detach())
    assert gradient.abs().min() > 0
    assert all(p.grad is None for p in captured.graph.parameters())


@pytest.mark.parametrize("name", NETS)
def test_consumer_form_is_the_derivative_of_the_masked_model(name: str) -> None:
    torch.manual_seed(0)
    captured, deps = _analysed(settle(NETS[name]()))
    x, y = _batch()
    captured.graph.requires_grad_(False)  # frozen weights must not matter
    space = GateSpace(captured, deps, "consumers")
    gradient = space.gradient(F.cross_entropy(space.model(x), y))
    own = dict(captured.graph.named_parameters())
    step = 1e-6
    for group in deps.groups:
        losses = []
        for factor in (1 + step, 1 - step):
            scaled = {}
            for member in group.members:
                if member.role == "consumer":
                    weight = scaled.get(member.param, own[member.param]).clone()
                    hit = unit_of_position(member.runs, weight.shape[member.dim]) == 1
                    weight.movedim(member.dim, 0)[hit] *= factor
                    scaled[member.param] = weight
            losses.append(F.cross_entropy(torch.func.functional_call(captured.graph, scaled, (x,)), y))
        numeric = (losses[0] - losses[1]) / (2 * step)
        assert gradient[group.name][1].item() == pytest.approx(numeric.item(), rel=1e-4, abs=1e-9)


def test_score_is_the_mean_of_squared_gradients_per_minibatch() -> None:
    captured, deps = _analysed(_chain())
    batches = [_batch(4), _batch(6)]
    for form in ("gate", "consumers"):
        space = GateSpace(captured, deps, form)
        grads = [space.gradient(F.cross_entropy(space.model(x), y)) for x, y in batches]
        scores = score(captured, deps, "taylor2019", batches, form=form)
        for name, value in scores.items():
            torch.testing.assert_close(value, (grads[0][name] ** 2 + grads[1][name] ** 2) / 2)
    one = score(captured, deps, "taylor2019", batches, batches=1, form=form)
    torch.testing.assert_close(one["0"], grads[0]["0"] ** 2)


def test_dead_channel_scores_zero_and_rescaling_changes_nothing() -> None:
    model = _chain()
    with torch.no_grad():
        model[1].weight[2] = 0.0
        model[1].bias[2] = -1.0  # ReLU is shut for every input
        model[7].weight[:, 3] = 0.0  # nobody reads unit 3 of the second convolution
    data = [_batch(4), _batch(6)]
    for form in ("gate", "consumers"):
        scores = score(*_analysed(model), "taylor2019", data, form=form)
        assert scores["0"][2] == 0 and scores["4"][3] == 0
        assert (scores["0"] > 0).sum() == 5
        scaled = copy.deepcopy(model)
        with torch.no_grad():
            scaled[1].weight[1] *= 8.0
            scaled[1].bias[1] *= 8.0
            scaled[4].weight[:, 1] /= 8.0
        again = score(*_analysed(scaled), "taylor2019", data, form=form)
        for name in scores:
            torch.testing.assert_close(again[name], scores[name])


def test_training_mode_and_outer_no_grad_do_not_matter_and_nothing_is_left_behind() -> None:
    model = NETS["plain"]()
    captured, deps = _analysed(settle(model))
    data = [_batch()]
    expected = score(captured, deps, "taylor2019", data, form="gate")
    captured.graph.train()
    state = {name: value.clone() for name, value in captured.graph.state_dict().items()}
    with torch.no_grad():
        for form in ("gate", "consumers"):
            again = score(captured, deps, "taylor2019", data, form=form)
            if form == "gate":
                assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert captured.graph.training
    assert all(torch.equal(state[name], value) for name, value in captured.graph.state_dict().items())
    assert not any("hwprune_gate" in name for name, _ in captured.graph.named_parameters())


def test_own_loss_needs_no_labels() -> None:
    captured, deps = _analysed(_chain())
    x, _ = _batch()
    scores = score(captured, deps, "taylor2019", [x], loss=lambda outputs, _: outputs[:, 0].sum())
    space = GateSpace(captured, deps, "consumers")
    torch.testing.assert_close(scores["4"], space.gradient(space.model(x)[:, 0].sum())["4"] ** 2)


def test_groups_without_consumers_are_gated_and_without_taps_refused() -> None:
    captured, deps = _analysed(_chain())
    data = [_batch()]
    bare = [replace(g, members=tuple(m for m in g.members if m.role != "consumer")) for g in deps.groups]
    expected = score(captured, deps, "taylor2019", data, form="gate")
    mixed = replace(deps, groups=(bare[0], *deps.groups[1:]))
    for name, value in score(captured, mixed, "taylor2019", data).items():
        torch.testing.assert_close(value, expected[name])
    untapped = replace(deps, groups=(replace(bare[0], taps=()),))
    with pytest.raises(CriterionError, match="group 0 has no tensor"):
        score(captured, untapped, "taylor2019", data)
