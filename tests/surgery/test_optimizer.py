"""Training goes on after a cut as it would have in the masked original."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hwprune
from hwprune.api import analyse_model
from hwprune.errors import SurgeryError, UsageError
from hwprune.surgery.selection import Cuts, positions, removed_units, select
from tests.nets import NETS, settle
from tests.plans import plan_for
from tests.surgery.helpers import random_keep

IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, after: Any = None) -> None:
    """With BatchNorm in training mode, dropout off (it draws other numbers at another width)."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    for step in range(steps):
        optimizer.zero_grad()
        (model(IMAGE * (1 + 0.1 * step)) - 0.3).square().mean().backward()
        optimizer.step()
        if after is not None:
            after(step)


def _cut(value: Tensor, dims: dict[int, Tensor] | None) -> Tensor:
    for dim, kept in (dims or {}).items():
        value = value.index_select(dim, kept)
    return value


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2, amsgrad=True),
    "sgd": lambda m: torch.optim.SGD(
        [
            {"params": [p for p in m.parameters() if p.ndim > 1], "weight_decay": 1e-2},
            {"params": [p for p in m.parameters() if p.ndim <= 1], "lr": 3e-2},
        ],
        lr=1e-2,
        momentum=0.9,
        nesterov=True,
    ),
    "rmsprop": lambda m: torch.optim.RMSprop(m.named_parameters(), lr=1e-3, centered=True),
}


@pytest.mark.parametrize("name", ["residual", "grouped"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_continues_like_the_masked_original(name: str, kind: str) -> None:
    torch.manual_seed(0)
    model = settle(NETS[name]()).double()
    optimizer = OPTIMIZERS[kind](model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    _train(model, optimizer, 3)

    _, deps = analyse_model(model, IMAGE)
    keep = {group: units if len(units) > 1 else [0, 1] for group, units in random_keep(deps, 2).items()}
    pruned = hwprune.apply_plan(model, IMAGE, plan_for(model, deps, keep))
    cuts: Cuts = select(deps, keep, {n: tuple(t.shape) for n, t in model.state_dict().items()})

    masked, twin = copy.deepcopy((model, optimizer))
    parameters = dict(masked.named_parameters())

    def silence(_step: int = 0) -> None:
        with torch.no_grad():
            for group in deps.groups:
                for member in group.members:
                    if member.role == "consumer":
                        gone = positions(member.runs, removed_units(group, keep[group.name]))
                        parameters[member.param].index_fill_(
                            member.dim, torch.tensor(gone, dtype=torch.long), 0
                        )

    silence()
    hwprune.prune_optimizer(optimizer, pruned)
    assert schedule.optimizer is optimizer
    own = dict(pruned.model.named_parameters())
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in own.values()}
    assert len(held) == len(own)

    def same(_step: int = 0) -> None:
        for key, parameter in own.items():
            wanted = _cut(parameters[key].detach(), cuts.get(key))
            torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-7, atol=1e-9)
            states = optimizer.state[parameter], twin.state[parameters[key]]
            assert states[0].keys() == states[1].keys()
            for entry, value in states[0].items():
                other = states[1][entry]
                dims = cuts.get(key) if other.dim() else None
                torch.testing.assert_close(value, _cut(other, dims), rtol=1e-6, atol=1e-9)

    same()
    _train(masked, twin, 2, silence)
    _train(pruned.model, optimizer, 2)
    same()


def test_names_options_and_strangers_stay() -> None:
    model, stranger = settle(NETS["residual"]()), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(
        [
            {"params": [("stem", model.get_parameter("stem.0.weight"))], "lr": 0.3},
            {"params": list(stranger.named_parameters())},
        ],
        lr=0.1,
        momentum=0.9,
    )
    image = IMAGE.float()
    (model(image).sum() + stranger.weight.sum()).backward()
    optimizer.step()
    before = optimizer.state[stranger.weight]["momentum_buffer"]
    _, deps = analyse_model(model, image)
    pruned = hwprune.apply_plan(model, image, plan_for(model, deps, {"stem.0": [1, 4]}))
    hwprune.prune_optimizer(optimizer, pruned)
    first, second = optimizer.param_groups
    assert first["params"][0] is pruned.model.get_parameter("stem.0.weight")
    assert (first["lr"], first["param_names"], second["lr"]) == (0.3, ["stem"], 0.1)
    assert second["params"][0] is stranger.weight
    assert optimizer.state[stranger.weight]["momentum_buffer"] is before
    assert optimizer.state[first["params"][0]]["momentum_buffer"].shape == (2, 3, 3, 3)
    with pytest.raises(UsageError, match="no parameter of the Residual"):
        hwprune.prune_optimizer(torch.optim.SGD(stranger.parameters()), pruned)
    with pytest.raises(UsageError, match="already"):
        hwprune.prune_optimizer(torch.optim.SGD(pruned.model.parameters()), pruned)


class _Fixed(nn.Module):
    """Its code fixes widths, so its graph form comes back; it has a parameter that is never read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.unused = nn.Linear(4, 4)
        self.head = nn.Linear(8 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).reshape(-1, 8 * 64))


def test_the_graph_form_and_tied_parameters() -> None:
    model, image = _Fixed(), IMAGE.float()
    optimizer = torch.optim.Adam(model.parameters())
    model(image).square().sum().backward()
    optimizer.step()
    _, deps = analyse_model(model, image)
    pruned = hwprune.apply_plan(model, image, plan_for(model, deps, {"conv": [0, 7]}))
    assert isinstance(pruned.model, torch.fx.GraphModule)
    moment = optimizer.state[model.conv.weight]["exp_avg"]
    hwprune.prune_optimizer(optimizer, pruned)
    held = optimizer.param_groups[0]["params"]
    assert {id(p) for p in held} == {id(p) for p in pruned.model.parameters()}
    weight = pruned.model.get_parameter("conv.weight")
    assert torch.equal(optimizer.state[weight]["exp_avg"], moment[[0, 7]])
    pruned.model(image).square().sum().backward()
    optimizer.step()


def test_state_of_another_shape_is_refused_and_nothing_changes() -> None:
    model, image = settle(NETS["plain"]()), IMAGE.float()
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.eval()(image).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    _, deps = analyse_model(model, image)
    pruned = hwprune.apply_plan(model, image, plan_for(model, deps, {"conv": [1, 2]}))
    with pytest.raises(SurgeryError, match="LBFGS"):
        hwprune.prune_optimizer(optimizer, pruned)
    assert optimizer.param_groups[0]["params"][0] is next(iter(model.parameters()))
    pruned.model.register_parameter("stored", nn.Parameter(torch.zeros(2)))
    with pytest.raises(SurgeryError, match="learns 'stored'"):
        hwprune.prune_optimizer(torch.optim.SGD(model.parameters()), pruned)
