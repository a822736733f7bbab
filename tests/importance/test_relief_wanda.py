"""Shares of signals, and weights times norms, against hand counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwprune.errors import UsageError
from hwprune.importance import get, score
from hwprune.importance.readers import Reader, find_readers
from hwprune.importance.relief import prefix, shares_of, signals_of
from tests.importance.transformer import Block, analysed, images
from tests.nets import NETS, settle


def _reader(model: nn.Module, at: int) -> tuple[Reader, nn.Module]:
    captured, deps = analysed(model)
    return find_readers(captured, deps, criterion="relief")[at], model


def test_prefix_known_answer() -> None:
    shares = torch.tensor([[0.15, 0.5, 0.05, 0.3], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert prefix(shares, 0.8).tolist() == [[False, True, False, True], [False] * 4]
    assert prefix(shares, 0.81)[0].tolist() == [True, True, False, True]
    assert prefix(shares, 1.0)[0].all()


@pytest.mark.parametrize("aggregate", ["norm", "sum"])
@pytest.mark.parametrize("groups", [1, 2])
def test_signals_of_a_convolution_are_those_of_its_kernels_one_by_one(groups: int, aggregate: str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=groups)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), conv, nn.Flatten(), nn.Linear(64, 3))
    reader, _ = _reader(model, 0)
    mean = images(1, shape=(6, 8, 8)).abs()
    found = signals_of(reader, mean, aggregate)  # type: ignore[arg-type]
    each = 6 // groups
    for k in range(4):
        for c in range(each):
            x = mean[:, (k // (4 // groups)) * each + c][:, None]
            maps = F.conv2d(x, conv.weight[k : k + 1, c : c + 1].abs(), stride=2, padding=1).detach()
            expected = maps.sum() if aggregate == "sum" else maps.norm()
            assert float(found[k, c]) == pytest.approx(float(expected))
    spots = 16 if aggregate == "sum" else 4
    torch.testing.assert_close(found[:, -1], conv.bias.detach().abs() * spots)


def test_shares_sum_to_one_scaling_inputs_changes_no_mask_and_what_stays_suffices() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False), nn.Flatten(), nn.Linear(64, 3)
    )
    reader, _ = _reader(model, 0)
    mean = images(1, shape=(6, 6, 6)).abs()
    shares = shares_of(signals_of(reader, mean, "norm"))
    torch.testing.assert_close(shares.sum(1), torch.ones(4, dtype=torch.float64))
    for alpha in (0.5, 0.8, 0.95):
        kept = prefix(shares, alpha)
        assert torch.equal(kept, prefix(shares_of(signals_of(reader, 7.0 * mean, "norm")), alpha))
        assert ((shares * kept).sum(1) >= alpha - 1e-12).all()
        smallest = torch.where(kept, shares, 2.0).min(1).values
        assert ((shares * kept).sum(1) - smallest < alpha).all()  # not one too many


def test_relief_of_linear_layers_by_hand_and_with_alpha() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    captured, deps = analysed(model, (4, 5))
    data = [images(4, shape=(5,)), images(2, 1, shape=(5,))]
    x = torch.cat([model[:2](b) for b in data]).detach()
    signals = (model[2].weight.detach()[None] * x[:, None, :]).abs().mean(0)
    shares = signals / (signals.sum(1) + model[2].bias.detach().abs())[:, None]
    torch.testing.assert_close(score(captured, deps, "relief", data)["0"], shares.sum(0))
    bias = model[2].bias.detach().abs()[:, None]
    whole = torch.cat([signals, bias], 1) / (signals.sum(1, keepdim=True) + bias)
    expected = (whole * prefix(whole, 0.6))[:, :6].sum(0)
    found = score(captured, deps, "relief", data, alpha=0.6)["0"]
    torch.testing.assert_close(found, expected)
    assert (found == 0).any()


def test_wanda_by_hand_on_a_stage_a_grouped_layer_and_heads() -> None:
    torch.manual_seed(0)
    model = settle(NETS["residual"]()).double().eval()
    captured, deps = analysed(model)
    data = [images(4), images(2, 1)]
    found = score(captured, deps, "wanda", data)
    inputs: dict[str, torch.Tensor] = {}
    names = {"a1.0": "a1", "b1.0": "b1", "c1.0": "c1", "shortcut": "shortcut"}
    modules = dict(model.named_modules())
    for name in names:
        modules[name].register_forward_pre_hook(lambda m, a, n=name: inputs.update({n: a[0].detach()}))
    model(torch.cat(data))
    expected = torch.zeros(8, dtype=torch.float64)
    for name in names:
        norm = inputs[name].square().mean((0, 2, 3)).sqrt()
        expected += modules[name].weight.detach().abs().sum((0, 2, 3)) * norm
    torch.testing.assert_close(found["stem.0"], expected)

    grouped = settle(NETS["grouped"]()).double().eval()
    found = score(*analysed(grouped), "wanda", data)["first.0"]
    x = grouped.first(torch.cat(data)).detach().square().mean((0, 2, 3)).sqrt()
    weight = grouped.grouped[0].weight.detach().abs().sum((2, 3))
    torch.testing.assert_close(found, weight[:4].sum(0) * x[:6] + weight[4:].sum(0) * x[6:])

    block = Block()
    captured, deps = analysed(block)
    whole = score(captured, deps, "wanda", data)["qkv"]
    with torch.no_grad():
        block.out.weight[:, 8:12] = 0.0  # nobody reads the third head
    again = score(*analysed(block), "wanda", data)["qkv"]
    assert again[2] == 0
    torch.testing.assert_close(again[[0, 1, 3]], whole[[0, 1, 3]])


def test_unusable_parameters() -> None:
    with pytest.raises(UsageError, match="alpha"):
        get("relief", alpha=1.5)
    with pytest.raises(UsageError, match="aggregate"):
        get("relief", aggregate="max")
