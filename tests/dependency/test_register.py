"""Third parties teach the analysis their own operators, and mistakes do not get through."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import torch
from torch import Tensor, fx, nn

import hwprune
from hwprune.capture import Captured, capture
from hwprune.dependency import Barrier, Dependencies, Tracker, analyse
from hwprune.dependency.register import operator_name
from hwprune.dependency.rules import RULES
from hwprune.errors import DependencyError, UsageError, VerificationError
from hwprune.surgery import prune_model
from hwprune.surgery.constants import REWRITES, new_sizes


@torch.library.custom_op("hwprune_test::scale", mutates_args=())
def scale(x: Tensor, weight: Tensor) -> Tensor:
    return x * weight[:, None, None] + 1


@scale.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("hwprune_test::reverse", mutates_args=())
def reverse(x: Tensor) -> Tensor:
    return x.flip(1)


@reverse.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("hwprune_test::first", mutates_args=())
def first(x: Tensor, count: int) -> Tensor:
    return x.view(x.shape[0], count, *x.shape[2:]).sigmoid()


@first.register_fake
def _(x: Tensor, count: int) -> Tensor:
    return x.new_empty((x.shape[0], count, *x.shape[2:]))


class Net(nn.Module):
    def __init__(self, operator: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.operator = operator
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.weight = nn.Parameter(torch.rand(8) + 0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.operator == "scale":
            x = scale(x, self.weight)
        elif self.operator == "reverse":
            x = reverse(x)
        else:
            x = first(x, 8)
        return self.head(x.mean((2, 3)))


@pytest.fixture(autouse=True)
def tables() -> Generator[None]:
    rules, rewrites = dict(RULES), dict(REWRITES)
    yield
    for table, before in ((RULES, rules), (REWRITES, rewrites)):
        table.clear()
        table.update(before)  # type: ignore[arg-type]


def analysed(operator: str) -> tuple[Captured, Dependencies]:
    captured = capture(Net(operator), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    return captured, analyse(captured)


def test_without_a_rule_its_channels_stay() -> None:
    _, deps = analysed("scale")
    assert not deps.groups
    assert any("no rule for hwprune_test.scale" in line.reason for line in deps.ledger)


def test_a_rule_with_a_weight_of_its_own() -> None:
    @hwprune.register_rule(scale)
    def scale_rule(tracker: Tracker, node: fx.Node) -> object:
        x, weight = (tracker.of(argument) for argument in node.args)
        tracker.tie(x[1], weight[0], node)
        tracker.role(node.args[1], 0, "channelwise", node)
        return x

    captured, deps = analysed("scale")
    assert {m.param for m in deps.group("conv").members} == {
        "conv.weight",
        "conv.bias",
        "weight",
        "head.weight",
    }
    model, reason = prune_model(captured, deps, {"conv": [1, 2, 7]})
    assert reason is None
    assert torch.equal(model.get_parameter("weight"), captured.model.get_parameter("weight")[[1, 2, 7]])


@pytest.mark.parametrize("operator", ["hwprune_test::reverse", torch.ops.hwprune_test.reverse, reverse])
def test_a_wrong_rule_is_caught(operator: object) -> None:
    @hwprune.register_rule(operator)
    def claims_that_channels_keep_their_places(tracker: Tracker, node: fx.Node) -> object:
        return tracker.of(node.args[0])

    captured, deps = analysed("reverse")
    with pytest.raises(VerificationError, match="wrong on their own: 'conv'"):
        prune_model(captured, deps, {"conv": [0, 1, 5]})


def test_sizes_among_the_arguments() -> None:
    @hwprune.register_rule("hwprune_test::first")
    def passes(tracker: Tracker, node: fx.Node) -> object:
        return tracker.of(node.args[0])

    @hwprune.register_rewrite("hwprune_test::first")
    def count(node: fx.Node) -> None:
        node.update_arg(1, new_sizes(node)[1])

    captured, deps = analysed("first")
    model, reason = prune_model(captured, deps, {"conv": [0, 3]})
    assert isinstance(model, fx.GraphModule)  # 8 is a number in the class
    assert reason is not None
    assert model.get_parameter("conv.weight").shape[0] == 2


def test_mistakes_name_the_rule_and_the_operator() -> None:
    @hwprune.register_rule(reverse)
    def clumsy(tracker: Tracker, node: fx.Node) -> object:
        return tracker.of(node.args[1])

    with pytest.raises(DependencyError, match=r"clumsy.*hwprune_test\.reverse.*IndexError"):
        analysed("reverse")

    @hwprune.register_rule(reverse, replace=True)
    def one_dimension_too_many(tracker: Tracker, node: fx.Node) -> object:
        return [*tracker.of(node.args[0]), None]

    with pytest.raises(DependencyError, match="answered with dimensions"):
        analysed("reverse")

    @hwprune.register_rule(reverse, replace=True)
    def unsure(tracker: Tracker, node: fx.Node) -> object:
        raise Barrier("depends on the moon")

    _, deps = analysed("reverse")
    assert any("depends on the moon" in line.reason for line in deps.ledger)


def test_names() -> None:
    assert operator_name("aten::add.Tensor") == "aten.add.Tensor"
    assert operator_name("aten.add.Tensor") == "aten.add.Tensor"
    assert operator_name("mylib::op") == operator_name("mylib.op.default") == "mylib.op.default"
    assert operator_name(torch.ops.aten.add.Tensor) == "aten.add.Tensor"
    for wrong in ("relu", "mylib.op", "", 3, torch.ops.aten.add, torch.relu):
        with pytest.raises(UsageError):
            operator_name(wrong)
    with pytest.raises(UsageError, match="already"):
        hwprune.register_rule("aten::relu")
    with pytest.raises(UsageError, match="already"):
        hwprune.register_rewrite("aten::view")
