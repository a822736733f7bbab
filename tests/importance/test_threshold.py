"""One threshold for all groups, as in Network Slimming, and what removal by it really does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwprune.errors import UsageError
from hwprune.importance import global_threshold, score
from hwprune.surgery import cut_graph
from tests.importance.nets import analysed
from tests.nets import settle

SCALES = {"a": torch.tensor([0.3, 0.9, 0.1, 0.5]), "b": torch.tensor([0.2, 0.7, 0.4, 1.0, 0.8, 0.6])}


def test_known_threshold_of_ten_scales() -> None:
    found = global_threshold(SCALES, 0.35)
    # Position int(10 * 0.35) = 3 of 0.1 ... 1.0; what equals the threshold goes.
    assert found.threshold == pytest.approx(0.4)
    assert found.keep == {"a": (1, 3), "b": (1, 3, 4, 5)}
    assert global_threshold(SCALES, 0.0).keep == {"a": (0, 1, 3), "b": (0, 1, 2, 3, 4, 5)}


def test_no_group_is_emptied() -> None:
    scores = {"low": torch.tensor([0.02, 0.01, 0.03]), "high": torch.arange(1.0, 8.0)}
    assert global_threshold(scores, 0.5).keep["low"] == (2,)
    assert global_threshold(scores, 0.5, least=2).keep["low"] == (0, 2)
    assert global_threshold(scores, 0.5, least=0).keep["low"] == ()


@pytest.mark.parametrize(("share", "least"), [(1.0, 1), (-0.1, 1), (float("nan"), 1), (0.5, -1)])
def test_shares_out_of_range_are_refused(share: float, least: int) -> None:
    with pytest.raises(UsageError):
        global_threshold(SCALES, share, least=least)
    with pytest.raises(UsageError, match="over 0 groups"):
        global_threshold({}, 0.5)


@pytest.mark.parametrize(("shift", "exact"), [(0.0, True), (0.7, False)])
def test_a_channel_without_scale_is_gone_only_without_shift(shift: float, exact: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3))
    settle(model)
    model[1].weight.data[2], model[1].bias.data[2] = 0.0, shift
    captured, deps = analysed(model)
    found = global_threshold(score(captured, deps, "bn_scale"), 0.0)
    assert found.keep == {"0": (0, 1, 3, 4, 5)}
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    difference = (cut_graph(captured, deps, found.keep)(x) - captured.graph(x)).abs().max()
    assert (difference < 1e-12) == exact
