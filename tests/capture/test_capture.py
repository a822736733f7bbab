"""Capture: same values, no side effects, functional operators, clear refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hwprune.capture import TrainableGraph, capture
from hwprune.errors import CaptureError
from tests.nets import NETS, settle

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETS)
def test_same_values_also_at_another_batch_size(name: str) -> None:
    model = settle(NETS[name]()).eval()
    captured = capture(model, IMAGE)
    for batch in (2, 5, 1):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(captured.graph(x), model(x))


@pytest.mark.parametrize("name", NETS)
def test_no_operator_writes_in_place(name: str) -> None:
    graph = capture(NETS[name](), IMAGE).graph.graph
    names = [str(n.target).split(".")[1] for n in graph.nodes if n.op == "call_function"]
    assert names
    assert not [n for n in names if n.endswith("_")]


def test_model_is_untouched() -> None:
    model = settle(NETS["residual"]())
    model.train()
    model.stem[1].eval()
    before = copy.deepcopy(model.state_dict())
    flags = [m.training for m in model.modules()]
    captured = capture(model, IMAGE)
    captured.graph.train()
    captured.graph(IMAGE)
    with torch.no_grad():
        for p in captured.graph.parameters():
            p.zero_()
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert captured.model is model


def test_names_are_the_users() -> None:
    model = NETS["residual"]()
    captured = capture(model, IMAGE)
    assert {n for n, _ in captured.graph.named_parameters()} == {n for n, _ in model.named_parameters()}
    targets = [n.target for n in captured.graph.graph.nodes if n.op == "get_attr"]
    assert len(targets) == len(set(targets))


def test_train_mode_updates_statistics_and_drops() -> None:
    model = NETS["plain"]()
    graph = capture(model, IMAGE).graph
    assert isinstance(graph, TrainableGraph)
    mean = graph.get_buffer("stem.1.running_mean")
    graph(IMAGE)
    assert torch.equal(mean, torch.zeros(8))
    graph.train()
    first = graph(IMAGE)
    once = mean.clone()
    second = graph(IMAGE)
    assert not torch.equal(once, torch.zeros(8))
    assert not torch.equal(mean, once)
    assert not torch.equal(first, second)  # dropout
    reference = copy.deepcopy(model).train()
    reference(IMAGE)
    reference(IMAGE)
    torch.testing.assert_close(mean, reference.stem[1].running_mean)
    graph.eval()
    torch.testing.assert_close(graph(IMAGE), graph(IMAGE), rtol=0, atol=0)


def test_trainable_graph_survives_deepcopy() -> None:
    graph = copy.deepcopy(capture(NETS["plain"](), IMAGE).graph)
    assert isinstance(graph, TrainableGraph)
    graph.train()
    assert not torch.equal(graph(IMAGE), graph(IMAGE))
    graph.eval()
    assert torch.equal(graph(IMAGE), graph(IMAGE))


def test_batch_statistics_in_eval_mode_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    graph = capture(model, IMAGE).graph
    graph.train()
    graph.eval()
    torch.testing.assert_close(graph(IMAGE), model(IMAGE))


def test_cumulative_average_still_moves() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=None))
    graph = capture(model, IMAGE).graph
    graph.train()
    graph(IMAGE)
    assert not torch.equal(graph.get_buffer("1.running_mean"), torch.zeros(4))


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(self.a(x))))


def test_tied_and_reused_parameters_have_one_node() -> None:
    model = _Tied().eval()
    x = torch.randn(2, 6)
    captured = capture(model, x)
    targets = [n.target for n in captured.graph.graph.nodes if n.op == "get_attr"]
    assert sorted(targets) == ["a.bias", "a.weight", "b.bias"]
    torch.testing.assert_close(captured.graph(x), model(x))


class _Wrapped(nn.Module):
    def __init__(self, body: object) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)  # type: ignore[operator]


def _view_written(module: nn.Module, x: Tensor) -> Tensor:
    y = x * 2
    y[:, :2].relu_()
    return y + 1


def _buffer_written(module: nn.Module, x: Tensor) -> Tensor:
    module.count.add_(1)
    return x + module.count.view(1, 3, 1, 1)


def _chain(module: nn.Module, x: Tensor) -> Tensor:
    y = x * 2
    z = y.relu_()
    y.add_(z)
    return nn.functional.hardtanh_(y, 0, 1.5) + z.mul_(3)


def _mask_written(module: nn.Module, x: Tensor) -> Tensor:
    mask = x.new_zeros((8, 8))
    for number, rows in enumerate((slice(0, 3), slice(3, 8))):
        mask[rows] = number + 1.0
    return x * mask.masked_fill(mask == 1, 0.5)


def _mask_written_too_late(module: nn.Module, x: Tensor) -> Tensor:
    mask = torch.zeros(8, 8)
    y = x + mask
    mask[2:] = 1.0
    return y * mask


def _data_dependent(module: nn.Module, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def test_constants_built_in_place_are_computed_once() -> None:
    model = _Wrapped(_mask_written)
    captured = capture(model, IMAGE)
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(captured.graph(x), model(x))
    assert len([n for n in captured.graph.graph.nodes if n.op == "call_function"]) == 1


def _several_views(module: nn.Module, x: Tensor) -> Tensor:
    y = x * 2
    y[:, :2].relu_()
    y[:, 1, 2:5, ::2] += x[:, 0, :3, 1::2]  # two slices behind a selection
    y.transpose(1, 3)[:, 4].mul_(3.0)
    y[0] = 7.0
    y[:, 0] = x[:, :1, :1].squeeze(1)  # repeated to the shape of the part
    part = y[:, 2]
    part.add_(1).mul_(2)  # written to twice through the same view
    z = y + part.unsqueeze(1)
    z.permute(2, 0, 3, 1)[0].neg_()
    z.view(2, 3, 64)[:, :, 5].exp_()
    return z


@pytest.mark.parametrize("body", [_view_written, _several_views, _mask_written_too_late])
def test_views_written_in_place(body: object) -> None:
    model = _Wrapped(body)
    torch.testing.assert_close(capture(model, IMAGE).graph(IMAGE), model(IMAGE))


def test_a_written_view_has_a_derivative() -> None:
    def body(module: nn.Module, x: Tensor) -> Tensor:
        y = x * 2
        y[:, :2, 1:] += y[:, 1:, :-1].exp()
        y[0, 2] = x[1, 0]
        return y.tanh()

    net = nn.Sequential(nn.Conv2d(3, 3, 1), _Wrapped(body))
    graph = capture(net, IMAGE).graph
    wanted, got = (torch.autograd.grad(m(IMAGE).square().sum(), list(m.parameters())) for m in (net, graph))
    torch.testing.assert_close(got, wanted)


def _other_view_read(module: nn.Module, x: Tensor) -> Tensor:
    y = x * 2
    rest = y[:, 1:]
    y[:, :2].relu_()
    return rest + 1


def _view_without_a_way_back(module: nn.Module, x: Tensor) -> Tensor:
    y = x * 2
    y.diagonal(0, 2, 3).relu_()
    return y + 1


@pytest.mark.parametrize("body", [_other_view_read, _view_without_a_way_back])
def test_views_that_are_read_otherwise_later_are_refused(body: object) -> None:
    with pytest.raises(CaptureError, match="view"):
        capture(_Wrapped(body), IMAGE)


def test_buffers_written_in_place_are_refused() -> None:
    with pytest.raises(CaptureError, match="count"):
        capture(_Wrapped(_buffer_written), IMAGE)


def test_data_dependent_control_flow_is_refused_with_torchs_reason() -> None:
    where = r"\(test_capture.py, line \d+: return x if x.sum\(\) > 0 else -x\)"
    with pytest.raises(CaptureError, match=rf"torch.export cannot take _Wrapped: .*guard.*{where}"):
        capture(_Wrapped(_data_dependent), IMAGE)


def test_in_place_chain_on_one_value() -> None:
    # Every name is the same tensor in eager mode; the functional graph must agree.
    model = _Wrapped(_chain)
    torch.testing.assert_close(capture(model, IMAGE).graph(IMAGE), model(IMAGE))


def test_wrong_shape_names_layer_and_shape() -> None:
    with pytest.raises(CaptureError, match=r"hidden.*\(1, 12\)|stem\.0.*\(1, 4, 8, 8\)"):
        capture(NETS["plain"](), torch.randn(1, 4, 8, 8))


def test_not_a_tensor() -> None:
    with pytest.raises(CaptureError, match="example input 0 is a int"):
        capture(NETS["plain"](), (3,))  # type: ignore[arg-type]
