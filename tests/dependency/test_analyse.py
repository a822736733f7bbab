"""Groups, extents, taps and ledger of small networks with known answers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from hwprune.capture import capture
from hwprune.dependency import Dependencies, Run, analyse, rule
from hwprune.dependency.rules import RULES
from hwprune.dependency.tracker import Tracker
from hwprune.errors import DependencyError, UsageError
from tests.nets import NETS, conv_bn

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _analyse(model: nn.Module, x: Tensor = IMAGE, **scope: list[str]) -> Dependencies:
    return analyse(capture(model, x), **scope)


def _sizes(deps: Dependencies) -> dict[str, int]:
    return {g.name: g.size for g in deps.groups}


def _members(deps: Dependencies, group: str) -> dict[tuple[str, int], tuple[str, tuple[Run, ...]]]:
    return {(m.param, m.dim): (m.role, m.runs) for m in deps.group(group).members}


EXPECTED = {
    "plain": {"stem.0": 8, "conv": 12, "hidden": 10},
    "residual": {"stem.0": 8, "a1.0": 6, "b1.0": 4, "c1.0": 10, "c2.0": 16},
    "depthwise": {"expand.0": 8, "project": 6, "mix.0": 8},
    "grouped": {"first.0": 6, "grouped.0": 4, "last.0": 6},
    "concat": {"a": 4, "b": 6, "c": 5, "d": 8},
    "gate": {"conv.0": 8, "squeeze": 4, "out": 6},
}


@pytest.mark.parametrize("name", NETS)
def test_groups(name: str) -> None:
    assert _sizes(_analyse(NETS[name]())) == EXPECTED[name]


@pytest.mark.parametrize("name", NETS)
def test_classifier_is_protected(name: str) -> None:
    deps = _analyse(NETS[name]())
    head = [line for line in deps.ledger if line.name == "head"]
    assert len(head) == 1
    assert head[0].reason == "output of the model"
    assert ("head.weight", 0) not in {(m.param, m.dim) for g in deps.groups for m in g.members}


@pytest.mark.parametrize("name", NETS)
def test_extents_at_dense_widths_are_the_shapes(name: str) -> None:
    captured = capture(NETS[name](), IMAGE)
    deps = analyse(captured)
    for node in captured.graph.graph.nodes:
        if node.op != "output":
            shape = tuple(e.at(deps.dense_widths) for e in deps.extents[node.name])
            assert shape == tuple(node.meta["val"].shape), node.name


def test_flatten_puts_a_channel_on_consecutive_positions() -> None:
    deps = _analyse(NETS["plain"]())
    assert _members(deps, "conv") == {
        ("conv.weight", 0): ("producer", (Run(0, 0, 12),)),
        ("conv.bias", 0): ("channelwise", (Run(0, 0, 12),)),
        ("hidden.weight", 1): ("consumer", (Run(0, 0, 12, 4),)),
    }
    assert deps.extents["hidden_weight"][1].terms == (("conv", 4),)


def test_residual_stage_is_one_group_with_the_last_sum_as_tap() -> None:
    deps = _analyse(NETS["residual"]())
    roles = {(m.param, m.dim): m.role for m in deps.group("stem.0").members if m.role != "channelwise"}
    assert roles == {
        ("stem.0.weight", 0): "producer",
        ("a2.0.weight", 0): "producer",
        ("b2.0.weight", 0): "producer",
        ("a1.0.weight", 1): "consumer",
        ("b1.0.weight", 1): "consumer",
        ("c1.0.weight", 1): "consumer",
        ("shortcut.weight", 1): "consumer",
    }
    assert deps.group("stem.0").taps[-1].node == "add"
    assert deps.group("c2.0").taps[-1].node == "add_1"
    assert deps.group("a1.0").taps[-1].node == "batch_norm_1"


def test_concat_keeps_original_offsets() -> None:
    deps = _analyse(NETS["concat"]())
    assert _members(deps, "b")["d.weight", 1] == ("consumer", (Run(9, 0, 6),))
    assert _members(deps, "b")["norm.running_var", 0] == ("channelwise", (Run(4, 0, 6),))
    assert deps.extents["d_weight"][1].terms == (("c", 1), ("a", 1), ("b", 1))


def test_grouped_convolution_ties_the_same_position_of_every_group() -> None:
    deps = _analyse(NETS["grouped"]())
    first = deps.group("first.0")
    assert first.channels_per_unit == 2
    assert _members(deps, "first.0")["first.0.weight", 0] == ("producer", (Run(0, 0, 6), Run(6, 0, 6)))
    assert _members(deps, "first.0")["grouped.0.weight", 1] == ("consumer", (Run(0, 0, 6),))
    assert _members(deps, "grouped.0")["last.0.weight", 1] == ("consumer", (Run(0, 0, 4), Run(4, 0, 4)))


def test_depthwise_multiplier() -> None:
    deps = _analyse(NETS["depthwise"]())
    members = _members(deps, "project")
    assert members["multiply.weight", 0] == ("channelwise", (Run(0, 0, 6, 2),))
    assert members["mix.0.weight", 1] == ("consumer", (Run(0, 0, 6, 2),))
    assert deps.group("project").channels_per_unit == 1
    assert ("multiply.weight", 1) not in members
    assert deps.group("expand.0").taps[-1].node == "batch_norm_1"


def test_gates() -> None:
    deps = _analyse(NETS["gate"]())
    assert {m.param for m in deps.group("conv.0").members if m.role == "producer"} == {
        "conv.0.weight",
        "excite.weight",
    }
    assert deps.group("conv.0").taps[-1].node == "mul"
    (line,) = [line for line in deps.ledger if line.name == "spatial"]
    assert line.channels == 1
    assert "one channel is repeated" in line.reason


class _Body(nn.Module):
    """Two convolutions around a given function."""

    def __init__(self, body: object, channels: int = 8, after: int | None = None) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, channels, 3, padding=1)
        self.two = nn.Conv2d(after or channels, 5, 1)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.body(self.one(x))).mean((2, 3))  # type: ignore[operator]


def _line(deps: Dependencies, name: str) -> str:
    return "; ".join(line.reason for line in deps.ledger if line.name == name)


def test_unknown_operator_is_a_barrier() -> None:
    deps = _analyse(_Body(lambda x: torch.sort(x, dim=2).values))
    assert _sizes(deps) == {}
    assert _line(deps, "one") == "no rule for aten.sort (node 'sort')"


def test_what_is_tied_behind_a_barrier_has_the_same_reason() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.sort(self.one(x), dim=2).values + self.two(x))

    deps = _analyse(Net())
    assert _sizes(deps) == {}
    assert _line(deps, "two") == _line(deps, "one") == "no rule for aten.sort (node 'sort')"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda x: torch.softmax(x, 1), "mixed by aten.softmax.int"),
        (lambda x: x - x.mean(1)[:, None], "reduced by aten.mean.dim"),
        (lambda x: x - x.logsumexp(1, keepdim=True), "reduced by aten.logsumexp"),
        (lambda x: functional.local_response_norm(x, 3), "mixed by aten.avg_pool3d"),
        (lambda x: x[:, :8].flip(1), "mixed by aten.flip"),
        (lambda x: x.transpose(1, 3), "reduced by aten.mean.dim"),
        (lambda x: functional.prelu(x, torch.rand(8)), "no rule for aten.rand"),
        (lambda x: x * torch.rand(8, 1, 1), "no rule for aten.rand"),
    ],
)
def test_operators_that_mix_channels_keep_them(body: object, reason: str) -> None:
    deps = _analyse(_Body(body))
    assert _sizes(deps) == {}
    assert reason in _line(deps, "one")


@pytest.mark.parametrize(
    "body",
    [
        lambda x: torch.softmax(x, 3) * functional.hardswish(x),
        lambda x: functional.interpolate(functional.max_pool2d(x, 2), scale_factor=2.0),
        lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda x: x.flatten(2).reshape(-1, 8, 8, 8),
        lambda x: x.mean((2, 3))[:, :, None, None].expand_as(x) * x,
        lambda x: x.sum((2, 3), keepdim=True).expand(-1, -1, 8, 8) + x,
        lambda x: x / (1 + x.abs()),
    ],
)
def test_operators_that_pass_channels(body: object) -> None:
    assert _sizes(_analyse(_Body(body))) == {"one": 8}


def test_splitting_a_dimension_makes_blocks() -> None:
    # [N, 32] -> [N, 8, 2, 2]: a unit is four consecutive features of the linear layer.
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 32)
            self.conv = nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.fc(x).view(-1, 8, 2, 2))

    deps = _analyse(Net(), torch.randn(3, 6))
    assert _sizes(deps) == {"fc": 8}
    assert deps.group("fc").channels_per_unit == 4
    assert _members(deps, "fc")["fc.weight", 0] == ("producer", (Run(0, 0, 8, 4),))


def test_shortcut_padded_with_zero_channels() -> None:
    deps = _analyse(_Body(lambda x: functional.pad(x, (0, 0, 0, 0, 2, 2)), after=12))
    assert _members(deps, "one")["two.weight", 1] == ("consumer", (Run(2, 0, 8),))
    assert deps.extents["two_weight"][1].fixed == 4


def test_input_channels_stay_and_so_does_what_is_added_to_them() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.head = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x) + x)

    deps = _analyse(Net())
    assert _sizes(deps) == {}
    assert _line(deps, "conv") == "tied to an input of the model"


def test_reused_and_tied_layers_are_consistent() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 8)
            self.loop = nn.Linear(8, 8)
            self.twin = nn.Linear(8, 8)
            self.twin.weight = self.loop.weight
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.loop(self.loop(torch.relu(self.first(x))).relu())
            return self.head(self.twin(x).relu())

    deps = _analyse(Net(), torch.randn(3, 6))
    assert _sizes(deps) == {"first": 8}
    members = _members(deps, "first")
    assert members["loop.weight", 0][0] == "producer"
    assert members["loop.weight", 1][0] == "consumer"
    assert ("twin.bias", 0) in members
    assert len(members) == len(deps.group("first").members)


def test_weights_tied_to_the_classifier_stay() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 4, bias=False)
            self.mid = nn.Linear(4, 6)
            self.head = nn.Linear(6, 4, bias=False)
            self.head.weight = self.inner.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.mid(self.inner(x).relu())))

    deps = _analyse(Net(), torch.randn(3, 6))
    assert _sizes(deps) == {}
    assert _line(deps, "inner") == "output of the model"
    assert _line(deps, "mid") == "tied to an input of the model"


def test_concat_of_a_tensor_with_itself() -> None:
    deps = _analyse(_Body(lambda x: torch.cat([x, x], 1), after=16))
    assert _members(deps, "one")["two.weight", 1] == ("consumer", (Run(0, 0, 8), Run(8, 0, 8)))
    assert deps.extents["cat"][1].terms == (("one", 2),)


def test_sum_over_part_of_a_concat_splits_a_layer_into_groups() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(3, 10, 1)
            self.head = nn.Conv2d(10, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.a(x), self.b(x)], 1) + self.c(x))

    deps = _analyse(Net())
    assert _sizes(deps) == {"a": 4, "b": 6}
    assert _members(deps, "a")["c.weight", 0] == ("producer", (Run(0, 0, 4),))
    assert _members(deps, "b")["c.weight", 0] == ("producer", (Run(4, 0, 6),))


def test_names_are_unique_when_one_layer_falls_into_several_groups() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.a, self.b = nn.Conv2d(3, 10, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
            self.head = nn.Conv2d(10, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            c = self.c(x)
            return self.head(c + torch.cat([self.a(x), self.b(x)], 1))

    assert _sizes(_analyse(Net())) == {"c": 4, "c#2": 6}
    assert _sizes(_analyse(Net(), exclude=["a"])) == {"c#2": 6}  # names do not depend on the scope


def test_exclude_and_include() -> None:
    deps = _analyse(NETS["residual"](), exclude=["b2.*"])
    assert "stem.0" not in _sizes(deps)
    assert _line(deps, "stem.0") == "excluded by pattern 'b2.*' through b2.0"
    assert deps.extents["stem_0_weight"][0].fixed == 8
    assert _sizes(_analyse(NETS["residual"](), include=["c1", "a?.0"], exclude=["c1"])) == {
        "stem.0": 8,
        "a1.0": 6,
    }


def test_pattern_without_match_names_neighbours() -> None:
    with pytest.raises(UsageError, match=r"'squeze' matches no layer[\s\S]*squeeze"):
        _analyse(NETS["gate"](), exclude=["squeze"])


def test_third_party_rules() -> None:
    def per_channel_sort(t: Tracker, node: fx.Node) -> list[object]:
        return [*t.of(node.args[0])[:2], None]

    assert "aten.sort.default" not in RULES
    body = _Body(lambda x: torch.cummax(x, 2).values)
    assert _sizes(_analyse(body)) == {}
    try:
        rule("aten.bernoulli.default")(per_channel_sort)  # type: ignore[arg-type]
        with pytest.raises(DependencyError, match=r"aten\.bernoulli"):
            _analyse(_Body(torch.bernoulli))
    finally:
        RULES.pop("aten.bernoulli.default")


def test_one_tuple_output_per_tensor_is_protected() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = conv_bn(3, 8)
            self.a, self.b = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.body(x)
            return {"a": self.a(x), "b": self.b(x)}

    deps = _analyse(Net())
    assert _sizes(deps) == {"body.0": 8}
    assert {line.name: line.channels for line in deps.ledger} == {"a": 4, "b": 6}
