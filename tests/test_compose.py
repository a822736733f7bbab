"""Pruning twice is pruning once by the composed plan."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import hwprune
from hwprune.api import analyse_model
from hwprune.errors import PlanError
from tests.nets import NETS, settle
from tests.plans import plan_for
from tests.surgery.helpers import random_keep

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.conv = nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Linear(8 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.stem(x).relu()).relu().reshape(-1, 8 * 64))


FACTORIES: dict[str, type[nn.Module]] = {n: NETS[n] for n in ("residual", "grouped", "concat")} | {
    "fixed": Fixed
}


def _prune(model: nn.Module, seed: int, **options: str) -> hwprune.Pruned:
    _, deps = analyse_model(model, IMAGE)
    return hwprune.apply_plan(model, IMAGE, plan_for(model, deps, random_keep(deps, seed), **options))


@pytest.mark.parametrize("name", FACTORIES)
def test_twice_is_once(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = settle(FACTORIES[name]())
    once = _prune(model, 1, budget_asked="70%")
    twice = _prune(once.model, 2)
    both = hwprune.compose(once.plan, twice.plan)
    assert both.budget_asked == "70%, then 50%"
    assert (both.fingerprint, both.model) == (once.plan.fingerprint, once.plan.model)
    together = hwprune.apply_plan(model, IMAGE, both)
    assert isinstance(together.model, fx.GraphModule) == isinstance(twice.model, fx.GraphModule)
    wanted, got = twice.model.state_dict(), together.model.state_dict()
    assert wanted.keys() == got.keys()
    assert all(torch.equal(value, got[key]) for key, value in wanted.items())
    assert torch.equal(twice.model.eval()(IMAGE), together.model.eval()(IMAGE))

    both.save(tmp_path / "both.json")
    assert hwprune.Plan.load(tmp_path / "both.json") == both
    hwprune.save(together, tmp_path / "together")
    hwprune.save(once, tmp_path / "once")
    hwprune.save(twice, tmp_path / "twice")
    direct = hwprune.load(tmp_path / "together", FACTORIES[name])
    chained = hwprune.load(tmp_path / "twice", lambda: hwprune.load(tmp_path / "once", FACTORIES[name]))
    for loaded in (direct, chained):
        assert all(torch.equal(value, got[key]) for key, value in loaded.state_dict().items())
        assert torch.equal(loaded(IMAGE), together.model(IMAGE))


def test_groups_that_the_second_plan_lacks_stay_as_the_first_left_them() -> None:
    model = settle(NETS["residual"]())
    _, deps = analyse_model(model, IMAGE)
    first = plan_for(model, deps, {"a1.0": [4], "c1.0": [1, 2, 5, 9]})
    once = hwprune.apply_plan(model, IMAGE, first)
    _, deps = analyse_model(once.model, IMAGE)
    assert "a1.0" not in {g.name for g in deps.groups}  # one unit is left, which must stay
    second = plan_for(once.model, deps, {"c1.0": [0, 3]})
    both = hwprune.compose(first, second)
    assert both.keep["a1.0"] == (4,)
    assert both.keep["c1.0"] == (1, 9)
    shares = {g.name: g.importance_kept for g in both.groups}
    assert shares["c1.0"] == pytest.approx(0.2)
    hwprune.apply_plan(model, IMAGE, both)


def test_refusals() -> None:
    model = settle(NETS["residual"]())
    _, deps = analyse_model(model, IMAGE)
    first = plan_for(model, deps, {"c1.0": [1, 2]})
    with pytest.raises(PlanError, match=r"'c1\.0' has 10 units, the first leaves 2"):
        hwprune.compose(first, first)
    with pytest.raises(PlanError, match="target"):
        hwprune.compose(first, first.model_copy(update={"target": "aarch64-generic"}))
    with pytest.raises(PlanError, match="submodule 'b'"):
        hwprune.compose(first, first.model_copy(update={"submodule": "b"}))
    other = plan_for(settle(NETS["gate"]()), analyse_model(NETS["gate"](), IMAGE)[1], {})
    with pytest.raises(PlanError, match="none of that name"):
        hwprune.compose(first, other)
