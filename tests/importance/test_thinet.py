"""ThiNet's two greedy rules: known answers, brute force, and contributions as the network makes them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from hwprune.errors import UsageError
from hwprune.importance import contributions as module
from hwprune.importance import get, score
from hwprune.importance.active import ActiveInverse, with_ridge
from hwprune.importance.contributions import contributions
from hwprune.importance.greedy import as_scores, pursuit_order, removal_order
from hwprune.importance.rows import Positions
from tests.importance.transformer import Block, analysed, images
from tests.nets import NETS, settle


def _contributions(seed: int, rows: int = 50, columns: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, columns)) * rng.uniform(0.3, 2, columns) + 0.5 * rng.normal(size=(rows, 1))


@pytest.mark.parametrize("seed", range(3))
def test_both_rules_choose_greedily(seed: int) -> None:
    z = _contributions(seed)
    everything = set(range(7))
    removed: list[int] = []
    while len(removed) < 7:
        left = sorted(everything - set(removed))
        removed.append(min(left, key=lambda c: float(np.square(z[:, [*removed, c]].sum(1)).sum())))
    assert removal_order(z.T @ z).tolist() == removed

    taken: list[int] = []
    residual = z.sum(1)
    while len(taken) < 7:

        def behind(c: int, r: np.ndarray = residual) -> float:
            return float(np.linalg.norm(r - z[:, c] * (z[:, c] @ r) / (z[:, c] @ z[:, c])))

        taken.append(min(sorted(everything - set(taken)), key=behind))
        fitted = np.linalg.lstsq(z[:, taken], z.sum(1), rcond=None)[0]
        residual = z.sum(1) - z[:, taken] @ fitted
    assert pursuit_order(z.T @ z)[:6].tolist() == taken[:6]


def test_orthogonal_contributions_go_by_energy() -> None:
    energy = np.array([3.0, 0.5, 7.0, 1.0])
    assert removal_order(np.diag(energy)).tolist() == [1, 3, 0, 2]
    assert pursuit_order(np.diag(energy)).tolist() == [2, 0, 3, 1]
    assert as_scores(np.array([1, 3, 0, 2]), first_goes=True).tolist() == [3, 1, 4, 2]
    assert as_scores(np.array([2, 0, 3, 1]), first_goes=False).tolist() == [3, 1, 4, 2]


def test_nothing_contributed_goes_first_and_of_twins_one_goes_without_loss() -> None:
    z = _contributions(0)
    z[:, 4] = 0.0
    assert removal_order(z.T @ z)[0] == 4 and pursuit_order(z.T @ z)[-1] == 4
    z[:, 4] = z[:, 2]
    order = pursuit_order(z.T @ z)
    assert order[-1] in (2, 4)
    kept = order[:-1]
    factors = np.linalg.lstsq(z[:, kept], z.sum(1), rcond=None)[0]
    np.testing.assert_allclose(factors, np.where(np.isin(kept, (2, 4)), 2.0, 1.0), atol=1e-9)
    np.testing.assert_allclose(z[:, kept] @ factors, z.sum(1), atol=1e-9)


def test_fitted_factors_are_never_worse_than_none() -> None:
    z = _contributions(1)
    for size, order in itertools.product(range(1, 7), (pursuit_order(z.T @ z), removal_order(z.T @ z)[::-1])):
        kept = order[:size]
        factors = np.linalg.lstsq(z[:, kept], z.sum(1), rcond=None)[0]
        plain = np.linalg.norm(z.sum(1) - z[:, kept].sum(1))
        assert np.linalg.norm(z.sum(1) - z[:, kept] @ factors) <= plain + 1e-12


def test_inverse_of_columns_that_come_and_go() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 40))
    matrix = with_ridge(z.T @ z, 1e-9)
    active, inside = ActiveInverse(matrix), []
    for step in range(700):
        column = int(rng.integers(40))
        if column in inside:
            active.remove(column)
            inside.remove(column)
        else:
            active.add(column)
            inside.append(column)
        if step % 23 == 0 and inside:
            chosen = matrix[np.ix_(active.members, active.members)]
            np.testing.assert_allclose(active.inverse @ chosen, np.eye(len(inside)), atol=1e-8)
    assert sorted(active.members) == sorted(inside)


def _expected(model: nn.Module, name: str, x: torch.Tensor, units: list[list[int]]) -> np.ndarray:
    """Products of contributions to a layer's outputs, made one by one; centred and over the energy."""
    layer = dict(model.named_modules())[name]
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    model(x)
    hook.remove()
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    layer, bias = layer, layer.bias
    layer.bias = None
    dim = 1 if isinstance(layer, nn.Conv2d) else -1
    each = []
    for positions in units:
        mask = torch.zeros(seen[0].shape[dim], dtype=torch.float64)
        mask[positions] = 1.0
        shape = [1] * seen[0].ndim
        shape[dim] = -1
        each.append(layer(seen[0] * mask.reshape(shape)).detach())
    whole = layer(seen[0]).detach()
    layer.bias = bias
    axes = (0, 2, 3) if isinstance(layer, nn.Conv2d) else tuple(range(whole.ndim - 1))
    centred = torch.stack([(z - z.mean(axes, keepdim=True)).flatten() for z in each])
    energy = (whole - whole.mean(axes, keepdim=True)).square().sum()
    return (centred @ centred.T / energy).numpy()


@pytest.mark.parametrize("sampled", [False, True])
def test_products_are_those_of_what_units_add_to_outputs(
    sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sampled:  # as layers of very many inputs: here, all outputs are in the sample
        monkeypatch.setattr(module, "_COLUMNS", 0)
    torch.manual_seed(0)
    x = images()
    everywhere = Positions(10_000)

    def products(model: nn.Module) -> dict[str, np.ndarray]:
        captured, deps = analysed(model)
        batches = [module.Batch((part,), {}, None) for part in (x[:4], x[4:])]
        found = contributions(captured, deps, batches, everywhere, centred=True, criterion="lasso")
        assert not found.fallback
        return found.products

    grouped = settle(NETS["grouped"]()).double().eval()
    found = products(grouped)
    expected = _expected(grouped, "grouped.0", x, [[u, u + 6] for u in range(6)])
    np.testing.assert_allclose(found["first.0"], expected, atol=1e-10)

    residual = settle(NETS["residual"]()).double().eval()
    one = [[u] for u in range(8)]
    readers = ("a1.0", "b1.0", "c1.0", "shortcut")
    expected = sum(_expected(residual, name, x, one) for name in readers)
    np.testing.assert_allclose(products(residual)["stem.0"], expected, atol=1e-10)

    concat = settle(NETS["concat"]()).double().eval()
    expected = _expected(concat, "c", x, [[4 + u] for u in range(6)])
    expected = expected + _expected(concat, "d", x, [[9 + u] for u in range(6)])
    np.testing.assert_allclose(products(concat)["b"], expected, atol=1e-10)

    plain = settle(NETS["plain"]()).double().eval()
    flat = [list(range(4 * u, 4 * u + 4)) for u in range(12)]
    np.testing.assert_allclose(products(plain)["conv"], _expected(plain, "hidden", x, flat), atol=1e-10)

    block = Block().double().eval()
    found = products(block)
    heads = [list(range(4 * u, 4 * u + 4)) for u in range(4)]
    np.testing.assert_allclose(found["qkv"], _expected(block, "out", x, heads), atol=1e-10)
    np.testing.assert_allclose(
        found["f1" if "f1" in found else "up"],
        _expected(block, "down", x, [[u] for u in range(24)]),
        atol=1e-10,
    )


@pytest.mark.parametrize("rule", ["omp", "removal"])
def test_units_that_nobody_reads_come_last(rule: str) -> None:
    torch.manual_seed(0)
    model = settle(NETS["depthwise"]())
    with torch.no_grad():
        model.project.weight[:, [2, 5]] = 0.0  # type: ignore[union-attr, index]
    found = score(*analysed(model), "thinet", [images()], rule=rule)
    assert found["expand.0"][[2, 5]].sort().values.tolist() == [1, 2]
    assert sorted(found["expand.0"].tolist()) == list(range(1, 9))


def test_unusable_parameters() -> None:
    with pytest.raises(UsageError, match="no rule 'best'"):
        get("thinet", rule="best")
    with pytest.raises(UsageError, match="0 positions"):
        get("thinet", positions=0)
