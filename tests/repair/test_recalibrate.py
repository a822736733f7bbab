"""BatchNorm recalibration against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwprune.capture import capture
from hwprune.errors import RepairError
from hwprune.repair.recalibrate import recalibrate_batchnorm


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 5, 1)
    )


def _data(count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 8, 8, generator=generator) * 2 + 1 for _ in range(count)]


def _expected(conv: nn.Module, data: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        maps = [conv(x).transpose(0, 1).flatten(1) for x in data]
    mean = torch.stack([m.mean(1) for m in maps]).mean(0)
    var = torch.stack([m.var(1, unbiased=True) for m in maps]).mean(0)
    return mean, var


def test_statistics_are_the_average_over_the_batches_and_nothing_else_changes() -> None:
    net, data = _net(), _data()
    bn = net[1]
    assert isinstance(bn, nn.BatchNorm2d)
    assert bn.running_mean is not None and bn.running_var is not None
    bn.running_mean.fill_(float("nan"))  # a reset that multiplies by zero would keep the NaN
    weights = {k: v.clone() for k, v in net.named_parameters()}
    net.train()
    net[3].eval()
    assert recalibrate_batchnorm(net, data) == 1
    mean, var = _expected(net[0], data)
    torch.testing.assert_close(bn.running_mean, mean)
    torch.testing.assert_close(bn.running_var, var)
    assert int(bn.num_batches_tracked or 0) == 3
    assert bn.momentum == 0.1
    assert net.training and bn.training and not net[3].training
    for name, value in net.named_parameters():
        assert torch.equal(value, weights[name]) and value.grad is None


def test_at_most_batches_are_read_and_all_loader_forms_agree() -> None:
    data = _data()
    forms = [data, [(x, torch.zeros(4)) for x in data], [{"image": x, "label": 0} for x in data]]
    results = []
    for form in forms:
        net = _net()
        recalibrate_batchnorm(net, form, batches=2)
        mean, _ = _expected(net[0], data[:2])
        torch.testing.assert_close(net[1].running_mean, mean)
        results.append(net[1].running_var.clone())
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_downstream_layer_sees_batch_normalised_input_as_in_training() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
    )
    data = _data()
    twin = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
    )
    twin.load_state_dict(net.state_dict())
    for module in twin:
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    twin.train()
    with torch.no_grad():
        for x in data:
            twin(x)
    assert recalibrate_batchnorm(net, data) == 2
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=1e-6)


def test_blending_uses_the_layers_own_momentum() -> None:
    net, data = _net(), _data(1)
    net[1].momentum = 0.25
    recalibrate_batchnorm(net, data, reset=False)
    mean, var = _expected(net[0], data)
    torch.testing.assert_close(net[1].running_mean, 0.25 * mean)
    torch.testing.assert_close(net[1].running_var, 0.75 + 0.25 * var)


def test_captured_graph_form_equals_module_form() -> None:
    net, data = _net().eval(), _data()
    graph = capture(net, data[0]).graph
    graph.train()
    assert recalibrate_batchnorm(graph, data) == 1
    mean, var = _expected(net[0], data)
    assert graph.training and "True, 0.1" in graph.code
    buffers = dict(graph.named_buffers())
    torch.testing.assert_close(buffers["1.running_mean"], mean)
    torch.testing.assert_close(buffers["1.running_var"], var)


def test_model_without_batchnorm_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    with caplog.at_level("INFO"):
        assert recalibrate_batchnorm(net, _data()) == 0
    assert "no BatchNorm" in caplog.text


def test_one_value_per_channel_is_refused_by_name_and_old_statistics_return() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    old = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(RepairError, match=r"recalibrate 2: .*\(1, 3, 1, 1\)"):
        recalibrate_batchnorm(net, [torch.randn(1, 3, 4, 4)])
    assert all(torch.equal(old[k], v) for k, v in net.state_dict().items())


def test_bad_data_is_refused() -> None:
    with pytest.raises(RepairError, match="empty"):
        recalibrate_batchnorm(_net(), [])
    with pytest.raises(RepairError, match="recalibrating 1 gave statistics that are not finite"):
        recalibrate_batchnorm(_net(), [torch.full((4, 3, 8, 8), float("inf"))])
