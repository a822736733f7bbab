"""A submodule is pruned where it sits, and the whole model still computes what it should."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import hwprune
from hwprune.api import analyse_model
from hwprune.errors import CaptureError, DependencyError, SurgeryError, UsageError, VerificationError
from tests.nets import conv_bn, settle
from tests.plans import plan_for
from tests.surgery.helpers import random_keep

IMAGES = [torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(2)]


class Backbone(nn.Module):
    """Two maps, as a dictionary."""

    def __init__(self, fixed: bool = False) -> None:
        super().__init__()
        self.out_channels = 6
        self.stem = conv_bn(3, 8)
        self.deep = conv_bn(8, 10)
        self.fixed = fixed
        self.side = nn.Conv2d(8, 6, 1)
        self.top = nn.Conv2d(10, 6, 1)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        x = self.stem(x)
        if self.fixed:
            x = x.view(-1, 8, 16, 16)
        y = self.deep(functional.max_pool2d(x, 2))
        return OrderedDict([("0", self.side(x)), ("1", self.top(y))])


class Tower(nn.Module):
    """Runs at any size, but its graph does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv_bn(6, 12)
        self.second = conv_bn(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x + x.view(x.shape[0], x.shape[1], -1).mean(2)[:, :, None, None])


class Head(nn.Module):
    """Takes a list of maps and a keyword; runs the same layers on each."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = Tower()
        self.score = nn.Conv2d(5, 2, 1)

    def forward(self, maps: list[Tensor], *, scale: float) -> tuple[list[Tensor], Tensor]:
        scores = [self.score(self.tower(m)) * scale for m in maps]
        return scores, scores[0].amax((1, 2, 3))


class Detector(nn.Module):
    """How many boxes come out depends on the data, so it cannot be exported."""

    def __init__(self, fixed: bool = False) -> None:
        super().__init__()
        self.backbone = Backbone(fixed)
        self.head = Head()

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        maps = self.backbone(torch.stack(images))
        assert self.backbone.out_channels == 6
        scores, _ = self.head(list(maps.values()), scale=0.5)
        found: list[dict[str, Tensor]] = []
        for number in range(len(images)):
            flat = torch.cat([s[number].flatten() for s in scores])
            chosen = flat[flat > flat.mean()]
            found.append({"scores": chosen.sort(descending=True).values, "count": torch.tensor(len(chosen))})
        return found


def _detector(fixed: bool = False) -> Detector:
    torch.manual_seed(0)
    detector = Detector(fixed)
    settle(detector)
    return detector


def _cut(model: nn.Module, path: str, seed: int = 0) -> hwprune.Pruned:
    captured, deps = analyse_model(model, (IMAGES,), submodule=path)
    keep = random_keep(deps, seed)
    return hwprune.apply_plan(model, (IMAGES,), plan_for(captured.model, deps, keep, submodule=path))


def test_the_backbone_of_a_detector() -> None:
    model = _detector()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(CaptureError):
        analyse_model(model, (IMAGES,))
    pruned = _cut(model, "backbone")
    assert type(pruned.model) is Detector
    assert type(pruned.pruned_part) is Backbone
    assert pruned.max_rel_error <= 1e-5
    assert {line.name for line in pruned.ledger} == {"side", "top"}  # the interface
    kept = pruned.plan.keep["stem.0"]
    assert pruned.model.backbone.stem[0].out_channels == len(kept) < 8
    # By hand: a copy of the whole original, deaf to what went.
    masked = copy.deepcopy(model).eval()
    with torch.no_grad():
        for group, readers in (("stem.0", ("deep.0", "side")), ("deep.0", ("top",))):
            units = pruned.plan.keep[group]
            for reader in readers:
                weight = masked.backbone.get_submodule(reader).weight
                gone = [u for u in range(weight.shape[1]) if u not in units]
                weight[:, gone] = 0
        wanted, got = masked(IMAGES), pruned.model.eval()(IMAGES)
    for w, g in zip(wanted, got, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)
    assert model.training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not [m for m in model.modules() if m._forward_pre_hooks]
    mine = {id(t) for t in [*model.parameters(), *model.buffers()]}
    assert not mine & {id(t) for t in [*pruned.model.parameters(), *pruned.model.buffers()]}
    pruned.model.train()
    pruned.model(IMAGES)[0]["scores"].sum().backward()
    assert all(p.grad is not None for p in pruned.model.parameters())


def test_a_part_with_lists_and_keywords() -> None:
    model = _detector()
    pruned = _cut(model, "head")
    assert type(pruned.pruned_part) is type(model.head) is Head
    assert not hasattr(pruned.pruned_part, "hwprune_structure")
    assert len(pruned.plan.keep["tower.first.0"]) < 12
    assert pruned.pruned_part.score.in_channels == len(pruned.plan.keep["tower.second.0"])
    assert {line.name for line in pruned.ledger} == {"score"}


def test_a_part_that_is_called_at_two_sizes() -> None:
    pruned = _cut(_detector(), "head.tower", 3)
    assert type(pruned.pruned_part) is Tower
    assert pruned.pruned_part.second[0].in_channels == len(pruned.plan.keep["first.0"]) < 12


def test_the_graph_form_inside_the_whole(tmp_path: Path) -> None:
    pruned = _cut(_detector(fixed=True), "backbone")
    assert isinstance(pruned.pruned_part, fx.GraphModule)
    assert any(line.name == "backbone" and "Backbone is not kept" in line.reason for line in pruned.ledger)
    assert any(n.startswith("backbone.stem") for n, _ in pruned.model.named_parameters())
    hwprune.save(pruned, tmp_path / "out")
    loaded = hwprune.load(tmp_path / "out", lambda: Detector(fixed=True))
    with torch.no_grad():
        for a, b in zip(loaded(IMAGES), pruned.model.eval()(IMAGES), strict=True):
            assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("path", ["backbone", "head"])
def test_saved_and_loaded(path: str, tmp_path: Path) -> None:
    pruned = _cut(_detector(), path)
    hwprune.save(pruned, tmp_path / "out")
    loaded = hwprune.load(tmp_path / "out", Detector)
    with torch.no_grad():
        for a, b in zip(loaded(IMAGES), pruned.model.eval()(IMAGES), strict=True):
            assert all(torch.equal(a[key], b[key]) for key in a)


def test_the_optimizer_of_the_whole() -> None:
    model = _detector()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(IMAGES)[0]["scores"].sum().backward()
    optimizer.step()
    pruned = _cut(model, "backbone")
    hwprune.prune_optimizer(optimizer, pruned)
    held = optimizer.param_groups[0]["params"]
    assert [id(p) for p in held] == [id(p) for p in pruned.model.parameters()]
    assert all(optimizer.state[p]["momentum_buffer"].shape == p.shape for p in held)


class Shared(nn.Module):
    """A weight of the body has a second name outside it; or the whole reaches into the body."""

    def __init__(self, reach: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Linear(6, 8),
            nn.ReLU(),
            nn.Linear(8, 5),
            nn.ReLU(),
            nn.Linear(5, 7),
            nn.ReLU(),
            nn.Linear(7, 4),
        )
        self.reach = reach
        if not reach:
            self.tied = self.body[2].weight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.body[0](x)
        if not self.reach:
            first = functional.linear(first.new_ones(1, 8), self.tied)
        return self.body(x), first


def test_parameters_that_are_used_outside_stay() -> None:
    model, x = Shared(), torch.randn(3, 6)
    captured, deps = analyse_model(model, x, submodule="body")
    assert [g.name for g in deps.groups] == ["4"]
    reasons = {line.name: line.reason for line in deps.ledger}
    assert "tied" in reasons["0"]
    assert "tied" in reasons["2"]
    plan = plan_for(captured.model, deps, {"4": [1, 3]}, submodule="body")
    pruned = hwprune.apply_plan(model, x, plan)
    assert pruned.model.tied is pruned.model.body[2].weight
    assert pruned.model.body[4].out_features == 2


def test_reaching_into_the_part_is_caught() -> None:
    model, x = Shared(reach=True), torch.randn(3, 6)
    captured, deps = analyse_model(model, x, submodule="body")
    plan = plan_for(captured.model, deps, {"0": [1, 3]}, submodule="body")
    with pytest.raises(VerificationError, match="body"):
        hwprune.apply_plan(model, x, plan)


class Broken(Detector):
    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        super().forward(images)
        raise RuntimeError("no kernel for nms")


def test_a_whole_that_does_not_run_to_its_end_is_said_so() -> None:
    torch.manual_seed(0)
    pruned = _cut(settle(Broken()), "backbone")
    line = next(line for line in pruned.ledger if line.name == "backbone")
    assert "only this submodule was verified" in line.reason
    assert "no kernel for nms" in line.reason


def test_refusals() -> None:
    model = _detector()
    with pytest.raises(UsageError, match="backbone"):
        analyse_model(model, (IMAGES,), submodule="backbon")
    with pytest.raises(UsageError, match="no submodule ''"):
        analyse_model(model, (IMAGES,), submodule="")
    with pytest.raises(CaptureError, match="before it calls 'head'"):
        analyse_model(model, ([IMAGES[0], IMAGES[1][:2]],), submodule="head")
    with pytest.raises(DependencyError, match="output of the model"):
        analyse_model(model, (IMAGES,), submodule="backbone.top")
    with pytest.raises(UsageError, match="cannot be scored with data"):
        hwprune.plan(model, (IMAGES,), data=[], submodule="backbone")
    model.spare = nn.Linear(2, 2)
    with pytest.raises(CaptureError, match="does not call its submodule 'spare'"):
        analyse_model(model, (IMAGES,), submodule="spare")


def test_a_graph_cannot_take_lists() -> None:
    class FixedTower(Tower):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).view(-1, 12, x.shape[2], x.shape[3]))

    model = _detector()
    model.head.tower = settle(FixedTower())
    with pytest.raises(SurgeryError, match="graph form cannot take"):
        _cut(model, "head")
