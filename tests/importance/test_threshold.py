"""One threshold for all groups, as in Network Slimming, and what removal by it really does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hwprune.errors import UsageError
from hwprune.importance import global_threshold, keep_exactly, score
from hwprune.surgery import cut_graph
from tests.importance import cases
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
    norm = nn.BatchNorm2d(6)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Conv2d(6, 2, 3))
    settle(model)
    norm.weight.data[2], norm.bias.data[2] = 0.0, shift
    captured, deps = analysed(model)
    found = global_threshold(score(captured, deps, "bn_scale"), 0.0)
    assert found.keep == {"0": (0, 1, 3, 4, 5)}
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    difference = (cut_graph(captured, deps, found.keep)(x) - captured.graph(x)).abs().max()
    assert (difference < 1e-12) == exact


@pytest.mark.parametrize("count", range(2, 11))
def test_exactly_so_many_units_stay_and_they_are_the_best(count: int) -> None:
    found = keep_exactly(SCALES, count)
    assert sum(map(len, found.keep.values())) == count
    assert all(found.keep.values())
    kept = [float(SCALES[name][unit]) for name, units in found.keep.items() for unit in units]
    best = sorted((float(x) for s in SCALES.values() for x in s), reverse=True)
    # The best two units are in different groups, so that no group needs help.
    assert sorted(kept, reverse=True) == best[:count]
    assert found.threshold == (best[count] if count < 10 else -math.inf)


def test_ties_go_to_the_earlier_group_and_the_lower_number() -> None:
    scores = {"b": torch.tensor([1.0, 2.0, 1.0, 1.0]), "a": torch.tensor([1.0, 1.0, 0.5])}
    kept = [keep_exactly(scores, n).keep for n in range(2, 8)]
    assert [each["b"] for each in kept] == [(1,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3)]
    assert [each["a"] for each in kept] == [(0,), (0,), (0,), (0,), (0, 1), (0, 1, 2)]
    # A threshold keeps none of them, or all.
    assert sum(map(len, global_threshold(scores, 0.5, least=0).keep.values())) == 1


def test_a_group_of_low_scores_keeps_its_least_and_the_count_holds() -> None:
    scores = {"low": torch.tensor([0.02, 0.01, 0.03]), "high": torch.arange(1.0, 8.0)}
    assert keep_exactly(scores, 5).keep == {"low": (2,), "high": (3, 4, 5, 6)}
    assert keep_exactly(scores, 5, least=2).keep == {"low": (0, 2), "high": (4, 5, 6)}
    assert keep_exactly(scores, 5, least=0).keep == {"low": (), "high": (2, 3, 4, 5, 6)}
    assert keep_exactly(scores, 7, least=4).keep["low"] == (0, 1, 2)  # all that there are


def test_counts_that_cannot_be_are_refused() -> None:
    for count, least in ((1, 1), (11, 1), (-1, 0)):
        with pytest.raises(UsageError, match=f"{count} units are to stay of 10 in 2 groups"):
            keep_exactly(SCALES, count, least=least)
    with pytest.raises(UsageError, match="over 0 groups"):
        keep_exactly({}, 1)
    with pytest.raises(UsageError, match="at least -1 units"):
        keep_exactly(SCALES, 5, least=-1)
    with pytest.raises(UsageError, match="scores of group b are not finite"):
        keep_exactly(SCALES | {"b": torch.tensor([1.0, math.nan])}, 3)


@pytest.mark.parametrize("name", ["residual", "tokens"])
def test_snip_keeps_a_share_of_the_units_of_a_whole_network(name: str) -> None:
    captured, deps = cases.network(name)
    scores = score(captured, deps, "snip", [cases.labelled(captured, 6)])
    assert sum(float(s.sum()) for s in scores.values()) == pytest.approx(1.0, abs=1e-12)
    total = sum(group.size for group in deps.groups)
    found = keep_exactly(scores, round(total * 0.5))
    assert sum(map(len, found.keep.values())) == round(total * 0.5)
    cut = cut_graph(captured, deps, found.keep)
    assert bool(torch.isfinite(cut(cases.labelled(captured)[0])).all())
