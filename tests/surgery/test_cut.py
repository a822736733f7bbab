"""Cut models equal the masked original; wrong cuts are caught."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from hwprune.capture import Captured, TrainableGraph, capture
from hwprune.dependency import analyse
from hwprune.errors import PlanError
from hwprune.surgery import cut_graph, cut_module, masked_original, prune_model, verify
from tests.nets import NETS, settle
from tests.surgery.helpers import IMAGE, Keep, prepared, random_keep
from tests.zoo import torchvision_models


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_random_cuts_are_exact(name: str, data: st.DataObject) -> None:
    captured, deps = prepared(name)
    keep = {
        g.name: sorted(data.draw(st.sets(st.integers(0, g.size - 1), min_size=1), label=g.name))
        for g in deps.groups
    }
    graph = cut_graph(captured, deps, keep)
    assert verify(captured, deps, keep, graph) < 1e-5
    module, reason = prune_model(captured, deps, keep)
    assert reason is None
    assert type(module) is NETS[name]
    assert {n: p.shape for n, p in module.named_parameters()} == {
        n: p.shape for n, p in graph.named_parameters()
    }


def test_against_hooks_that_zero_what_consumers_read() -> None:
    # An oracle that knows nothing of members: module pre-hooks on the dense model.
    captured, deps = prepared("residual")
    kept = [0, 2, 3, 7]
    gone = [1, 4, 5, 6]
    dense = copy.deepcopy(captured.model).eval()

    def silence(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        x = args[0].clone()
        x[:, gone] = 0
        return (x,)

    for name in ("a1.0", "b1.0", "c1.0", "shortcut"):
        dense.get_submodule(name).register_forward_pre_hook(silence)
    module, _ = prune_model(captured, deps, {"stem.0": kept})
    torch.testing.assert_close(module.eval()(IMAGE), dense(IMAGE))
    torch.testing.assert_close(masked_original(captured, deps, {"stem.0": kept})(IMAGE), dense(IMAGE))


def test_attributes_follow() -> None:
    captured, deps = prepared("depthwise")
    module = cut_module(captured.model, deps, {"expand.0": [0, 5, 6], "project": [1, 4], "mix.0": [2]})
    depthwise, multiply = module.depthwise[0], module.multiply
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (3, 3, 3)
    assert (multiply.in_channels, multiply.out_channels, multiply.groups) == (2, 4, 2)
    assert module.depthwise[1].num_features == 3
    assert (module.head.in_features, module.head.out_features) == (1, 4)
    captured, deps = prepared("grouped")
    grouped = cut_module(captured.model, deps, {"first.0": [1, 2], "grouped.0": [0, 2, 3]}).grouped[0]
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (4, 6, 2)


@pytest.mark.parametrize("name", NETS)
def test_extents_are_the_shapes_after_the_cut_and_a_second_cut_works(name: str) -> None:
    captured, deps = prepared(name)
    keep = random_keep(deps, 3)
    graph = cut_graph(captured, deps, keep)
    widths = {group: len(units) for group, units in keep.items()}
    shapes = {n.name: tuple(n.meta["val"].shape) for n in graph.graph.nodes if n.op != "output"}
    assert shapes == {n: tuple(e.at(widths) for e in extents) for n, extents in deps.extents.items()}

    again = Captured(graph, graph, captured.example_inputs)
    second = analyse(again)
    assert {g.name: g.size for g in second.groups} == {g: w for g, w in widths.items() if w > 1}
    keep2 = random_keep(second, 4)
    twice = cut_graph(again, second, keep2)
    assert verify(again, second, keep2, twice) < 1e-5
    combined = {
        group: [units[i] for i in keep2[group]] if group in keep2 else units for group, units in keep.items()
    }
    torch.testing.assert_close(twice(IMAGE), cut_graph(captured, deps, combined)(IMAGE))


def test_other_batch_sizes_and_the_user_model_is_untouched() -> None:
    captured, deps = prepared("plain")
    model = captured.model
    state = copy.deepcopy(model.state_dict())
    flags = [m.training for m in model.modules()]
    module, _ = prune_model(captured, deps, random_keep(deps))
    graph = cut_graph(captured, deps, random_keep(deps))
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(module.eval()(x), graph(x))
    for p in [*module.parameters(), *graph.parameters()]:
        p.data.zero_()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags


def _step(model: nn.Module, x: Tensor) -> None:
    model.train()
    parameters = list(model.parameters())
    before = [p.detach().clone() for p in parameters]
    assert all(p.grad is None for p in parameters)
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    model(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in parameters)
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


@pytest.mark.parametrize("name", NETS)
def test_both_forms_train(name: str) -> None:
    captured, deps = prepared(name)
    # keep at least three units: a single one can die behind a ReLU
    keep = {g.name: list(range(max(3, g.size // 2))) for g in deps.groups}
    module, _ = prune_model(captured, deps, keep)
    _step(module, IMAGE)
    _step(cut_graph(captured, deps, keep), IMAGE)


def _vgg(models: object) -> nn.Module:
    vgg = models.vgg  # type: ignore[attr-defined]
    model = vgg.VGG(vgg.make_layers(vgg.cfgs["D"], batch_norm=True), num_classes=10, init_weights=False)
    model.avgpool = nn.AdaptiveAvgPool2d(2)  # 7 x 7 would mean 120 million weights in the classifier
    model.classifier[0], model.classifier[3] = nn.Linear(512 * 4, 64), nn.Linear(64, 64)
    model.classifier[6] = nn.Linear(64, 10)
    return model


@pytest.mark.parametrize(
    ("build", "head"),
    [
        (lambda m: m.resnet18(), "fc"),
        (lambda m: m.resnet50(), "fc"),
        (_vgg, "classifier.6"),
        (lambda m: m.mobilenet_v2(width_mult=0.5), "classifier.1"),
    ],
    ids=["resnet18", "resnet50", "vgg16_bn", "mobilenet_v2"],
)
def test_torchvision(build: Callable[[object], nn.Module], head: str) -> None:
    torch.manual_seed(0)
    model = settle(build(torchvision_models()))
    x = torch.randn(2, 3, 32, 32)
    captured = capture(model, x)
    deps = analyse(captured)
    assert [line.name for line in deps.ledger] == [head]
    keep = random_keep(deps, 5, multiple=8)
    module, reason = prune_model(captured, deps, keep)
    assert reason is None
    assert type(module) is type(model)
    assert module.get_parameter(f"{head}.weight").shape[0] == model.get_parameter(f"{head}.weight").shape[0]
    assert _parameters(module) < 0.6 * _parameters(model)
    module.train()
    module(x).square().mean().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"cnov": [0]}, "nearest groups are conv"),
        ({"conv": []}, "keeps nothing"),
        ({"conv": [0, 12]}, "0 to 11"),
        ({"conv": [3, 1]}, "rising"),
        ({"conv": [1, 1]}, "rising"),
        ({"conv": [-1, 1]}, "rising"),
    ],
)
def test_plans_that_do_not_fit(keep: Keep, message: str) -> None:
    captured, deps = prepared("plain")
    for cut in (lambda: cut_graph(captured, deps, keep), lambda: prune_model(captured, deps, keep)):
        with pytest.raises(PlanError, match=message):
            cut()


# --- classes whose own code fixes widths, shared weights, constants


class _Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.norm(self.conv(x))).reshape(-1, 8 * 64))


def test_graph_form_where_the_class_fixes_widths() -> None:
    model = settle(_Fixed()).train()
    captured = capture(model, IMAGE)
    deps = analyse(captured)
    graph, reason = prune_model(captured, deps, {"conv": [0, 3, 4]})
    assert isinstance(graph, TrainableGraph)
    assert reason is not None
    assert "_Fixed" in reason
    assert "shape" in reason
    assert graph.training
    _step(graph, IMAGE)


class _Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.shift = torch.arange(8.0).view(1, 8, 1, 1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.softplus(self.conv(x) * self.scale + self.shift)
        return self.head(x.sum((2, 3), keepdim=True).expand(-1, 8, 8, 8).mean((2, 3)))


def test_per_channel_constants_are_cut() -> None:
    captured = capture(_Constant(), IMAGE)
    deps = analyse(captured)
    keep = {"conv": [1, 2, 6]}
    graph, reason = prune_model(captured, deps, keep)
    assert isinstance(graph, TrainableGraph)
    assert reason is not None
    assert verify(captured, deps, keep, graph) < 1e-5


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.loop = nn.Linear(8, 8)
        self.twin = nn.Linear(8, 8)
        self.twin.weight = self.loop.weight
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.twin(torch.tanh(self.loop(torch.tanh(self.first(x)))))))


def test_shared_parameters_stay_shared() -> None:
    captured = capture(_Tied(), torch.randn(3, 6))
    deps = analyse(captured)
    model, reason = prune_model(captured, deps, {"first": [0, 4, 5]})
    assert reason is None
    assert model.twin.weight is model.loop.weight
    assert model.twin.weight.shape == (3, 3)
    assert model.twin.in_features == 3


class _Autoencoder(nn.Module):
    """The decoder reads with the transposed weight of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(torch.sigmoid(self.encode(x)), self.encode.weight.t())


def test_transposed_weights_are_producer_and_consumer() -> None:
    captured = capture(_Autoencoder(), torch.randn(3, 6))
    deps = analyse(captured)
    roles = [(m.param, m.dim, m.role) for m in deps.group("encode").members]
    assert sorted(roles) == [
        ("encode.bias", 0, "channelwise"),
        ("encode.weight", 0, "consumer"),
        ("encode.weight", 0, "producer"),
    ]
    model, reason = prune_model(captured, deps, {"encode": [1, 3, 6]})
    assert reason is None
    assert isinstance(model, _Autoencoder)
    assert model.encode.out_features == 3


def test_units_of_several_features() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 32)
            self.up = nn.ConvTranspose2d(8, 5, 2, stride=2)
            self.slopes = nn.PReLU(5)
            self.conv = nn.Conv2d(9, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.slopes(self.up(self.fc(x).view(-1, 8, 2, 2)))
            return self.conv(functional.pad(x, (0, 0, 0, 0, 2, 2)))

    torch.manual_seed(0)
    captured = capture(Net(), torch.randn(3, 6))
    deps = analyse(captured)
    assert {g.name: g.size for g in deps.groups} == {"fc": 8, "up": 5}
    keep = {g.name: list(range(1, g.size)) for g in deps.groups}
    assert verify(captured, deps, keep, cut_graph(captured, deps, keep)) < 1e-5
    model = cut_module(captured.model, deps, keep)
    assert isinstance(model, Net)
    assert (model.up.in_channels, model.up.out_channels, model.slopes.num_parameters) == (7, 4, 4)


def test_one_channel_per_group_is_left() -> None:
    captured, deps = prepared("grouped")
    keep = {"first.0": [4], "grouped.0": [1, 2]}
    model, reason = prune_model(captured, deps, keep)
    assert reason is None
    grouped = model.get_submodule("grouped.0")
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (2, 4, 2)
    assert verify(captured, deps, keep, cut_graph(captured, deps, keep)) < 1e-5


def test_dropped_gradients() -> None:
    model = settle(NETS["residual"]())
    model(IMAGE).sum().backward()
    captured = capture(model, IMAGE)
    deps = analyse(captured)
    module, _ = prune_model(captured, deps, {"a1.0": [0, 1]})
    assert all(p.grad is None for p in module.parameters())
    assert all(p.grad is None for p in captured.graph.parameters())
    assert all(p.grad is not None for p in model.parameters())
