"""Plans with removed blocks: cut, verified, saved, loaded, trained on, composed, or refused by name."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import hwprune
from hwprune.api import analyse_model
from hwprune.capture import Captured, capture
from hwprune.dependency import Dependencies, analyse
from hwprune.dependency.blocks import Block, find_blocks
from hwprune.errors import PlanError
from hwprune.solve.plan import Plan
from hwprune.surgery import prune_model
from tests.nets import conv_bn, settle
from tests.plans import plan_for
from tests.surgery.helpers import IMAGE, random_keep
from tests.surgery.test_blocks import Stack, Text


class Nested(nn.Module):
    """A branch that holds a residual block of its own, and one behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.up, self.inner, self.back = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 8, 1)
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.up(x)
        y = y + self.inner(y)
        x = x + self.back(functional.relu(y))
        return self.head((x + self.last(x)).mean((2, 3)))


class Swapped(nn.Module):
    """A branch that alone ties one half of the channels to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.each = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        a, b = self.each(x).chunk(2, 1)
        return self.head((x + torch.cat([b, a], 1)).mean((2, 3)))


class Shared(nn.Module):
    """Two branches with one and the same layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.inside = nn.Conv2d(8, 6, 3, padding=1)
        self.one, self.two = nn.Conv2d(6, 8, 1), nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.one(self.inside(x).relu())
        x = x + self.two(self.inside(x).relu())
        return self.head(x.mean((2, 3)))


def looked_at(model: nn.Module, image: Tensor = IMAGE) -> tuple[Captured, Dependencies, dict[str, Block]]:
    captured = capture(model, image)
    deps = analyse(captured)
    return captured, deps, {b.name: b for b in find_blocks(captured, deps)}


def planned(model: nn.Module, names: Sequence[str], seed: int = 0, image: Tensor = IMAGE) -> Plan:
    _, deps, blocks = looked_at(model, image)
    return plan_for(model, deps, random_keep(deps, seed), blocks=[blocks[name] for name in names])


def silenced(model: nn.Module, layers: Sequence[str]) -> nn.Module:
    """Independent of the graph: these last layers of branches give zero."""
    twin = copy.deepcopy(model)
    for layer in layers:
        for parameter in twin.get_submodule(layer).parameters():
            nn.init.zeros_(parameter)
    return twin


CASES = {
    "class": (Stack, ["layers.0"], ["layers.0.b.1"], True),
    "two": (Stack, ["layers.0", "layers.3"], ["layers.0.b.1", "layers.3.b.1"], True),
    "graph": (Stack, ["layers.0", "layers.2"], ["layers.0.b.1", "layers.2.b.1"], False),
    "inner": (Nested, ["inner"], ["inner"], False),
    "outer": (Nested, ["up"], ["back"], False),
    "both": (Nested, ["inner", "up"], ["back"], False),
    "all": (Nested, ["inner", "up", "last"], ["back", "last"], False),
    "tied": (Swapped, ["each"], ["each"], False),
    "shared": (Shared, ["inside"], ["one"], False),
    "all shared": (Shared, ["inside", "inside#2"], ["one", "two"], False),
}


@pytest.mark.parametrize("case", CASES)
def test_blocks_and_channels_go_together(case: str, tmp_path: Path) -> None:
    factory, names, layers, is_class = CASES[case]
    torch.manual_seed(0)
    model = settle(factory())
    plan = planned(model, names, 3)
    pruned = hwprune.apply_plan(model, IMAGE, plan)
    assert pruned.max_rel_error <= 1e-5
    assert isinstance(pruned.model, factory) == is_class
    assert any(line.name == "model" for line in pruned.ledger) != is_class

    # The same channels cut from the same model with silent branches, by what knows no blocks.
    silent = silenced(model, layers)
    captured, deps, blocks = looked_at(silent)
    whole = {name: units for name, units in plan.keep.items() if units}
    wanted, _ = prune_model(captured, deps, whole)
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(pruned.model.eval()(x), wanted.eval()(x))
    gone = {p for name in names for p in blocks[name].parameters}
    left = {n for n, _ in [*pruned.model.named_parameters(), *pruned.model.named_buffers()]}
    assert gone and not gone & left

    hwprune.save(pruned, tmp_path / "pruned")
    loaded = hwprune.load(tmp_path / "pruned", factory)
    assert type(loaded).__name__ == type(pruned.model).__name__
    assert isinstance(loaded, fx.GraphModule) == isinstance(pruned.model, fx.GraphModule)
    state = loaded.state_dict()
    assert state.keys() == pruned.model.state_dict().keys()
    assert all(torch.equal(v, state[k]) for k, v in pruned.model.state_dict().items())
    assert torch.equal(loaded(x), pruned.model(x))

    rows = {row.name: row for row in pruned.outcomes if row.reason is None}
    for group in plan.groups:
        if group.block is not None:
            assert (rows[group.name].requested, rows[group.name].achieved) == (0, 0)
        elif rows[group.name].achieved is not None:
            assert rows[group.name].achieved == group.width * group.channels_per_unit
    pruned.model.train()
    pruned.model(x).sum().backward()
    assert all(p.grad is not None for p in pruned.model.parameters())


def test_what_only_a_branch_ties_or_refuses() -> None:
    model = settle(Swapped())
    _, deps, blocks = looked_at(model)
    assert {g.name: (g.size, g.channels_per_unit) for g in deps.groups} == {"stem.0": (4, 2)}
    pruned = hwprune.apply_plan(model, IMAGE, plan_for(model, deps, {"stem.0": [1]}, blocks=[blocks["each"]]))
    assert pruned.model.get_parameter("head.weight").shape == (4, 2)
    _, deps = analyse_model(pruned.model, IMAGE)
    assert {g.name: g.size for g in deps.groups} == {"stem.0": 2}  # from here on each goes alone


def test_attention_like_text() -> None:
    torch.manual_seed(0)
    model, x = Text(), torch.randn(2, 7, 5)
    plan = planned(model, ["blocks.0", "blocks.0#2", "blocks.1#2"], 1, x)
    pruned = hwprune.apply_plan(model, x, plan)
    assert pruned.max_rel_error <= 1e-5
    names = {n.rpartition(".")[0] for n, _ in pruned.model.named_parameters()}
    assert "blocks.1.mix" in names and not names & {"blocks.0.mix", "blocks.0.up", "blocks.1.up"}


def test_an_optimizer_lets_go_of_the_blocks() -> None:
    torch.manual_seed(0)
    model = settle(Stack()).double()
    image = IMAGE.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        model(image).square().mean().backward()
        optimizer.step()
    plan = planned(model, ["layers.0", "layers.2"], 1, image)
    pruned = hwprune.apply_plan(model, image, plan)
    before = {n: optimizer.state[p]["momentum_buffer"] for n, p in model.named_parameters()}
    hwprune.prune_optimizer(optimizer, pruned)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    own = dict(pruned.model.named_parameters())
    assert held == {id(p) for p in own.values()} == {id(p) for p in optimizer.state}
    assert "layers.0.a.0.weight" not in own and "layers.3.a.0.weight" in own
    (kept,) = (g.kept_units for g in plan.groups if g.name == "stem.0")
    momentum = optimizer.state[own["stem.0.weight"]]["momentum_buffer"]
    assert torch.equal(momentum, before["stem.0.weight"][list(kept)])


def test_as_a_pass_and_in_a_submodule() -> None:
    torch.manual_seed(0)
    model = settle(Stack())
    plan = planned(model, ["layers.0"], 2)
    smaller = hwprune.PrunePass(plan, (IMAGE,))(torch.export.export(model.eval(), (IMAGE,)).module())
    wanted = hwprune.apply_plan(model, IMAGE, plan).model.eval()
    assert smaller is not None and smaller.modified
    with torch.no_grad():
        torch.testing.assert_close(smaller.graph_module.eval()(IMAGE), wanted(IMAGE))

    outer = nn.Sequential(nn.Conv2d(3, 3, 1), model)
    part = hwprune.apply_plan(outer, IMAGE, plan.model_copy(update={"submodule": "1"}))
    assert isinstance(part.pruned_part, Stack) and isinstance(part.pruned_part.layers[0], nn.Identity)
    with torch.no_grad():
        torch.testing.assert_close(part.model.eval()(IMAGE), wanted(outer[0](IMAGE)))


def test_twice_is_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = settle(Stack())
    once = hwprune.apply_plan(model, IMAGE, planned(model, ["layers.0"], 1))
    twice = hwprune.apply_plan(once.model, IMAGE, planned(once.model, ["layers.2"], 2))
    both = hwprune.compose(once.plan, twice.plan)
    assert both.removed == ("layers.0", "layers.2")
    assert both.widths["layers.0.a.0"] == both.widths["layers.2.a.0"] == 0
    both.save(tmp_path / "both.json")
    together = hwprune.apply_plan(model, IMAGE, Plan.load(tmp_path / "both.json"))
    state = together.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in twice.model.state_dict().items())

    text, x = Text(), torch.randn(2, 7, 5)
    first = hwprune.apply_plan(text, x, planned(text, ["blocks.0"], 1, x))
    second = planned(first.model, ["blocks.0"], 1, x)  # the second branch of the original
    with pytest.raises(PlanError, match=r"by another name: the first one removes 'blocks\.0'"):
        hwprune.compose(first.plan, second)
    with pytest.raises(PlanError, match="64x64"):
        hwprune.compose(*(once.plan.model_copy(update={"resolution": (n, n)}) for n in (64, 32)))


def test_plans_that_do_not_fit_the_blocks() -> None:
    model = settle(Stack())
    plan = planned(model, ["layers.0"])

    def edited(old: str, new: str) -> Plan:
        return Plan.model_validate_json(plan.model_dump_json().replace(old, new))

    with pytest.raises(PlanError, match=r"no block 'layer\.0' \(nearest: layers\.0"):
        hwprune.apply_plan(model, IMAGE, edited('"layers.0"', '"layer.0"'))
    with pytest.raises(PlanError, match=r"block 'layers\.1' cannot go: .* projection"):
        hwprune.apply_plan(model, IMAGE, edited('"layers.0"', '"layers.1"'))
    with pytest.raises(PlanError, match=r"'layers\.0\.a\.0' does not lie in block 'layers\.2'"):
        hwprune.apply_plan(model, IMAGE, edited('"layers.0"', '"layers.2"'))
    _, deps, _ = looked_at(model)
    whole = plan_for(model, deps, {})
    with pytest.raises(PlanError, match=r"'layers\.0\.a\.0' goes with block 'layers\.0', but keeps 6 units"):
        hwprune.apply_plan(model, IMAGE, whole.model_copy(update={"removed_blocks": plan.removed_blocks}))


def test_an_edited_plan_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = settle(Stack())
    _, deps, _ = looked_at(model)
    plan_for(model, deps, {}).save(tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(
        text.replace('"width": 6, "kept": "0-5"', '"width": 2, "kept": "0,4"')
    )
    with caplog.at_level(logging.WARNING):
        pruned = hwprune.apply_plan(model, IMAGE, Plan.load(tmp_path / "plan.json"))
    assert pruned.plan.edited and "edited by hand" in caplog.text
    assert pruned.model.get_submodule("layers.0.a.0").out_channels == 2


def test_a_plan_for_another_resolution_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = settle(Stack())
    _, deps, _ = looked_at(model)
    plan = plan_for(model, deps, {"layers.0.a.0": [1, 2]})
    for side, said in ((8, False), (12, True)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            hwprune.apply_plan(model, IMAGE, plan.model_copy(update={"resolution": (side, side)}))
        assert ("images of 12x12, the inputs are 2x3x8x8" in caplog.text) == said
