"""Channel independence against singular values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hwprune.errors import UsageError
from hwprune.importance import get, score
from hwprune.importance.nuclear import independence
from hwprune.importance.shared import shared_taps
from tests.importance.transformer import Block, analysed, images
from tests.nets import NETS, settle


def _one_by_one(matrix: Tensor) -> Tensor:
    full = torch.linalg.svdvals(matrix).sum()
    rows = [torch.linalg.svdvals(torch.cat([matrix[:c], matrix[c + 1 :]])).sum() for c in range(len(matrix))]
    return full - torch.stack(rows)


@pytest.mark.parametrize(("rows", "columns"), [(5, 9), (9, 5), (12, 12), (1, 4), (30, 8), (4, 1)])
def test_all_rows_at_once_equal_decompositions_one_by_one(rows: int, columns: int) -> None:
    torch.manual_seed(rows)
    a = torch.randn(3, rows, columns, dtype=torch.float64)
    a[1] *= torch.logspace(-2, 2, rows, dtype=torch.float64)[:, None]
    if rows > 4:
        a[2, 3], a[2, 4] = 2 * a[2, 1], 0.0
    found, total = independence(a)
    for matrix, own, whole in zip(a, found, total, strict=True):
        size = float(torch.linalg.matrix_norm(matrix, 2))
        torch.testing.assert_close(own, _one_by_one(matrix), rtol=0, atol=3e-7 * size)
        assert float(whole) == pytest.approx(float(torch.linalg.svdvals(matrix).sum()), rel=1e-6)
        assert (own >= 0).all() and (own <= matrix.norm(dim=1) + 1e-12).all()
    if rows > 4:
        assert found[2, 4] == 0


def test_orthogonal_rows_are_worth_their_norms() -> None:
    q = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64)).Q.T
    norms = torch.tensor([3.0, 0.1, 1.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(independence((q * norms[:, None])[None])[0][0], norms, rtol=1e-6, atol=1e-6)


def test_of_equal_norms_the_dependent_row_is_worth_least_and_of_others_it_need_not_be() -> None:
    e = torch.eye(3, dtype=torch.float64)
    found = independence(torch.stack([e[0], e[1], (e[0] + e[1]) / 2**0.5, e[2]])[None])[0][0]
    expected = torch.tensor([0.566, 0.566, 0.414, 1.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=6e-4)
    twins = independence(torch.stack([5 * e[0], 5 * e[0], 0.5 * e[1]])[None])[0][0]
    torch.testing.assert_close(twins, torch.tensor([2.07, 2.07, 0.5]).double(), rtol=0, atol=2e-3)


def test_score_is_the_mean_over_examples_of_maps_behind_the_activation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.Flatten()
    )
    captured, deps = analysed(settle(model))
    data = [images(4), images(2, 1)]
    found = score(captured, deps, "chip", data, side=None)["0"]
    maps = torch.cat([model[:3](x) for x in data]).flatten(2).detach()
    torch.testing.assert_close(found, torch.stack([_one_by_one(m) for m in maps]).mean(0), rtol=0, atol=1e-6)
    pooled = nn.functional.adaptive_avg_pool2d(torch.cat([model[:3](x) for x in data]), 3).flatten(2).detach()
    found = score(captured, deps, "chip", data, side=3, relative=True)["0"]
    shares = torch.stack([_one_by_one(m) / torch.linalg.svdvals(m).sum() for m in pooled])
    torch.testing.assert_close(found, shares.mean(0), rtol=0, atol=1e-6)


def test_a_stage_is_seen_after_every_sum_and_a_depthwise_group_where_it_is_read() -> None:
    captured, deps = analysed(settle(NETS["residual"]()))
    # Behind the stem, and behind the sum of either block; not in the branches.
    taps = [t.node for t in shared_taps(captured, deps.group("stem.0"), criterion="chip")]
    assert taps == ["relu_", "relu", "relu_1"]
    captured, deps = analysed(settle(NETS["depthwise"]()))
    nodes = {n.name: n for n in captured.graph.graph.nodes}
    (tap,) = shared_taps(captured, deps.group("expand.0"), criterion="chip")
    assert [str(u.args[1]) for u in nodes[tap.node].users] == ["project_weight"]


def test_heads_are_rows() -> None:
    torch.manual_seed(0)
    model = Block()
    with torch.no_grad():
        model.qkv.weight[32 + 4 : 32 + 8] = 0.0  # values of the second head
        model.qkv.bias[32 + 4 : 32 + 8] = 0.0
    captured, deps = analysed(model)
    found = score(captured, deps, "chip", [images()])["qkv"]
    assert found[1] == 0 and (found[[0, 2, 3]] > 0).all()


def test_unusable_side() -> None:
    with pytest.raises(UsageError, match="side 0"):
        get("chip", side=0)
