"""LASSO for one width: the authors' search, and the alternation with least squares."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hwprune.errors import CriterionError, UsageError
from hwprune.importance import contributions as module
from hwprune.importance import get, score
from hwprune.importance.alternation import Alternation, ReadSums, alternate
from hwprune.importance.contributions import Contributions, contributions
from hwprune.importance.lasso_search import exact_support, search_penalty
from hwprune.importance.rows import Positions
from tests.importance.transformer import Block, analysed, images
from tests.nets import NETS, settle


def _layer(
    seed: int, count: int = 8, *, kernel: int = 1, groups: int = 1, shared: float = 1.0, rows: int = 80
) -> tuple[ReadSums, np.ndarray]:
    """A layer on inputs that have something in common, and these inputs ``[groups, rows, D]``."""
    rng = np.random.default_rng(seed)
    wide = count * kernel
    x = rng.normal(size=(groups, rows, wide))
    x += shared * rng.normal(size=(groups, rows, 2)) @ rng.normal(size=(groups, 2, wide))
    weight = rng.normal(size=(groups, 4, wide)) * np.repeat(rng.uniform(0.3, 2.0, count), kernel)
    y = x @ weight.transpose(0, 2, 1)
    units = np.repeat(np.arange(count), kernel)
    return ReadSums(x.transpose(0, 2, 1) @ x, weight, units, float(np.square(y).sum())), x


def _turns(layer: ReadSums, count: int, width: int) -> Alternation:
    return alternate([layer], count, partial(_exactly, width))


def _exactly(width: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return exact_support(a, b, width)


@pytest.mark.parametrize("seed", range(3))
def test_the_support_of_a_regression_is_recovered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(400, 20)) + 0.4 * rng.normal(size=(400, 1))
    true = np.sort(rng.choice(20, 6, replace=False))
    y = z[:, true] @ rng.choice([-2.0, -1.0, 1.0, 2.0], 6) + 0.1 * rng.normal(size=400)
    a, b = z.T @ z / 400, z.T @ y / 400
    assert exact_support(a, b, 6).tolist() == true.tolist()
    assert search_penalty(a, b, 6, 0.0).support.tolist() == true.tolist()
    assert set(true) <= set(search_penalty(a, b, 8, 0.25).support)


@pytest.mark.parametrize("seed", range(3))
def test_a_search_ends_inside_its_tolerance_and_an_exact_width_is_exact(seed: int) -> None:
    layer, _ = _layer(seed, 12, shared=0.5)
    a, b = layer.products(layer.weight, 12)
    roomy: list[int] = []
    for width in (1, 6, 11, 12):
        assert len(exact_support(a, b, width)) == width
        for tolerance, more in ((0.0, 0), (0.5, width // 2), (3.0, 3)):
            for start in (None, 1e3):
                found = search_penalty(a, b, width, tolerance, start=start)
                assert width <= len(found.support) <= width + more
                assert len(set(found.support.tolist())) == len(found.support)
                roomy.append(len(found.support) - width)
    # The search stops where it may: with room, it does not look for the exact width.
    assert any(roomy)


def test_twins_have_no_penalty_between_them_and_the_width_holds() -> None:
    a, b = np.ones((4, 4)), np.ones(4)
    for width in (1, 2, 3):
        assert len(search_penalty(a, b, width, 0.0).support) == width
    assert len(search_penalty(np.zeros((3, 3)), np.zeros(3), 2).support) == 2
    for width, tolerance, start in ((0, 0.1, None), (5, 0.1, None), (2, -0.1, None), (2, 0.1, 0.0)):
        with pytest.raises(CriterionError, match=f"width {width} of 4 channels"):
            search_penalty(a, b, width, tolerance, start=start)


@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 1), (2, 2)])
def test_sums_refit_as_the_rows_would(kernel: int, groups: int) -> None:
    layer, x = _layer(1, 6, kernel=kernel, groups=groups)
    other = layer.weight + np.random.default_rng(0).normal(size=layer.weight.shape)
    each = np.einsum(
        "gnuk,gouk->ugno", x.reshape(groups, -1, 6, kernel), other.reshape(groups, -1, 6, kernel)
    )
    y = x @ layer.weight.transpose(0, 2, 1)
    zz, zy = layer.products(other, 6)
    flat = each.reshape(6, -1)
    np.testing.assert_allclose(zz * layer.energy, flat @ flat.T, rtol=1e-10)
    np.testing.assert_allclose(zy * layer.energy, flat @ y.ravel(), rtol=1e-9, atol=1e-9)
    kept = np.array([True, False, True, True, False, False])
    fit, left = layer.refitted(kept)
    columns = np.flatnonzero(np.repeat(kept, kernel))
    residuals = 0.0
    for own, inputs, target in zip(fit, x, y, strict=True):
        expected, squares, *_ = np.linalg.lstsq(inputs[:, columns], target, rcond=None)
        np.testing.assert_allclose(own[:, columns], expected.T, atol=1e-6)
        residuals += squares.sum()
    assert left * layer.energy == pytest.approx(residuals, rel=1e-6)
    scaled = layer.rescaled(fit, kept)

    def norms(weight: np.ndarray) -> np.ndarray:
        return np.square(weight.reshape(groups, 4, 6, kernel)).sum((0, 1, 3))

    np.testing.assert_allclose(norms(scaled), norms(layer.weight))
    away = np.repeat(~kept, kernel)
    assert np.array_equal(scaled[:, :, away], layer.weight[:, :, away])


def test_a_twin_of_a_channel_is_made_up_for_and_with_all_units_nothing_changes() -> None:
    layer, x = _layer(2, 5)
    x = np.concatenate([x, x[:, :, :1]], 2)
    weight = np.concatenate([layer.weight, layer.weight[:, :, 1:2]], 2)
    twin = ReadSums(x.transpose(0, 2, 1) @ x, weight, np.arange(6))
    fit, left = twin.refitted(np.arange(6) != 5)
    assert left == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(fit[0, :, 0], weight[0, :, 0] + weight[0, :, 5], atol=1e-6)
    np.testing.assert_allclose(fit[0, :, 1:5], weight[0, :, 1:5], atol=1e-6)
    whole, left = layer.refitted(np.ones(5, dtype=bool))
    np.testing.assert_allclose(whole, layer.weight, atol=1e-6)
    assert left == pytest.approx(0.0, abs=1e-12)
    assert _turns(layer, 5, 5).support == (0, 1, 2, 3, 4)


def test_turns_are_never_worse_than_one_pass_and_sometimes_better() -> None:
    found = [_turns(_layer(seed, 16, shared=3.0)[0], 16, 8) for seed in range(30)]
    for turns in found:
        (support, first), *later = turns.rounds
        assert len(turns.support) == len(support) == 8
        assert turns.error <= first and turns.error == min([first, *(left for _, left in later)])
        assert len(turns.rounds) <= 10
        if turns.settled:  # twice the same set again
            assert len({each for each, _ in turns.rounds[-3:]}) == 1
    assert all(turns.settled for turns in found if len(turns.rounds) < 10)
    gains = [turns.error / turns.rounds[0][1] for turns in found]
    assert min(gains) < 0.95
    # Small enough to try all sets: none is better than the best of all.
    for seed in range(5):
        layer, _ = _layer(seed, 7, shared=2.0)
        best = min(
            layer.refitted(np.isin(np.arange(7), chosen))[1] for chosen in itertools.combinations(range(7), 3)
        )
        assert _turns(layer, 7, 3).error >= best * (1 - 1e-9)


def test_turns_need_rounds_and_layers() -> None:
    layer, _ = _layer(0)
    for rounds, layers in ((0, [layer]), (10, [])):
        with pytest.raises(CriterionError, match=f"{rounds} rounds"):
            alternate(layers, 8, partial(_exactly, 4), rounds=rounds)
    # With factors only, scaling back leaves what was: all rounds are the first.
    products, _ = layer.products(layer.weight, 8)
    turns = alternate([], 8, partial(_exactly, 4), others=products)
    assert turns.settled and len({each for each, _ in turns.rounds}) == 1
    assert turns.error > _turns(layer, 8, 4).error


def _contributions(model: nn.Module) -> Contributions:
    captured, deps = analysed(model)
    batches = [module.Batch((images(),), {}, None)]
    return contributions(captured, deps, batches, Positions(20), centred=True, criterion="lasso", layers=True)


@pytest.mark.parametrize("name", [*NETS, "transformer"])
def test_what_layers_are_refitted_from_makes_the_products_of_their_groups(name: str) -> None:
    torch.manual_seed(0)
    found = _contributions(Block() if name == "transformer" else settle(NETS[name]()))
    assert found.products.keys() == found.layers.keys()
    for group, layers in found.layers.items():
        size = len(found.products[group])
        pairs = [layer.products(layer.weight, size) for layer in layers]
        np.testing.assert_allclose(sum(zz for zz, _ in pairs), found.products[group], atol=1e-10)
        np.testing.assert_allclose(sum(zy for _, zy in pairs), found.products[group].sum(1), atol=1e-10)


@pytest.mark.parametrize("name", ["residual", "grouped", "concat", "transformer"])
@pytest.mark.parametrize("tolerance", [0.0, 0.3])
def test_the_best_units_are_those_of_the_width_that_is_kept(name: str, tolerance: float) -> None:
    torch.manual_seed(0)
    model = Block() if name == "transformer" else settle(NETS[name]())
    captured, deps = analysed(model)
    options: dict[str, Any] = {"keep": 0.5, "tolerance": tolerance, "positions": 20}
    plain = score(captured, deps, "lasso", [images()], positions=20)
    once = score(captured, deps, "lasso", [images()], **options)
    turns = score(captured, deps, "lasso", [images()], alternate=True, **options)
    found = _contributions(model)
    for group in deps.groups:
        width = round(0.5 * group.size)
        products = found.products[group.name]
        if tolerance:
            chosen = search_penalty(products, products.sum(1), width, tolerance).support
            expected = alternate(
                found.layers[group.name],
                group.size,
                lambda a, b, w=width: search_penalty(a, b, w, 0.3).support,
            ).support
        else:
            chosen = exact_support(products, products.sum(1), width)
            expected = _turns_of(found.layers[group.name], group.size, width)
        for scores, units in ((once, chosen), (turns, expected)):
            above = (scores[group.name] >= 1.0).nonzero().flatten().tolist()
            assert above == list(units)
            assert width <= len(above) <= width + int(tolerance * width)
            # Either side is in the order of the path.
            for side in (above, [u for u in range(group.size) if u not in above]):
                before = plain[group.name][side].argsort(stable=True)
                assert torch.equal(before, scores[group.name][side].argsort(stable=True))


def _turns_of(layers: list[ReadSums], size: int, width: int) -> tuple[int, ...]:
    return alternate(layers, size, partial(_exactly, width)).support


def test_counts_by_name_leave_other_groups_whole() -> None:
    torch.manual_seed(0)
    captured, deps = analysed(settle(NETS["residual"]()))
    found = score(captured, deps, "lasso", [images()], keep={"a1.0": 3}, alternate=True)
    assert int((found["a1.0"] >= 1.0).sum()) == 3
    assert all(bool((found[g.name] >= 1.0).all()) for g in deps.groups if g.name != "a1.0")


def test_layers_that_are_too_wide_for_products_take_part(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_COLUMNS", 60)  # the 3x3 convolutions with 8 inputs
    torch.manual_seed(0)
    captured, deps = analysed(settle(NETS["residual"]()))
    found = score(captured, deps, "lasso", [images()], keep=0.5, alternate=True)
    assert "layers that read group stem.0 are too wide to be refitted" in caplog.text
    assert all(int((found[g.name] >= 1.0).sum()) == round(g.size * 0.5) for g in deps.groups)


def test_parameters_that_mean_nothing_are_refused() -> None:
    made = get("lasso:keep=0.5:alternate=true:tolerance=0.1")
    assert made.label == "lasso:keep=0.5:alternate=true:tolerance=0.1"
    for options in ({"alternate": True}, {"tolerance": 0.1}):
        with pytest.raises(UsageError, match="none was given"):
            get("lasso", **options)
    for value in (-0.1, float("nan")):
        with pytest.raises(UsageError, match="has a tolerance of"):
            get("lasso", keep=0.5, tolerance=value)
    for keep in (True, "half"):
        with pytest.raises(UsageError, match="lasso is to keep"):
            get("lasso", keep=keep)
    captured, deps = analysed(settle(NETS["plain"]()))
    with pytest.raises(UsageError, match="a share of 2"):
        score(captured, deps, "lasso", [images()], keep=2)
    with pytest.raises(UsageError, match="no group of this model"):
        score(captured, deps, "lasso", [images()], keep={"nowhere": 2})
