"""The LASSO on products: known answers, its conditions of optimality, and its order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hwprune.errors import CriterionError, UsageError
from hwprune.importance import get, score
from hwprune.importance.active import with_ridge
from hwprune.importance.gram import Gram, contribution_gram
from hwprune.importance.lasso import path_scores
from hwprune.importance.lasso_path import RIDGE, exact_width, lasso, lasso_path
from hwprune.importance.rows import Rows
from tests.importance.transformer import Block, analysed, images
from tests.nets import NETS, settle


def _problem(
    seed: int, rows: int = 60, columns: int = 12, shared: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, columns)) * rng.uniform(0.3, 2, columns) + shared * rng.normal(size=(rows, 1))
    y = z.sum(1) if seed % 2 else z @ rng.normal(size=columns)
    return z.T @ z / rows, z.T @ y / rows


def test_orthogonal_design_shrinks_by_the_penalty_over_the_energy_and_leaves_in_its_order() -> None:
    energy = np.array([0.5, 3.0, 1.0, 2.0])
    a, b = np.diag(energy), energy  # the target is the sum of all
    for penalty in (0.2, 0.7, 1.5, 2.5):
        np.testing.assert_allclose(lasso(a, b, penalty), np.maximum(0.0, 1.0 - penalty / energy), atol=1e-9)
    path = lasso_path(a, b)
    np.testing.assert_allclose(path.entered, energy, rtol=1e-7)
    for width, expected in enumerate([(), (1,), (1, 3), (1, 2, 3), (0, 1, 2, 3)]):
        assert tuple(exact_width(a, b, width)) == expected
        assert width == 0 or path.of_width(width) == expected


@pytest.mark.parametrize("seed", range(4))
def test_solutions_fulfil_the_conditions_and_the_path_goes_through_them(seed: int) -> None:
    a, b = _problem(seed)
    path = lasso_path(a, b)
    ridged = with_ridge(a, RIDGE)
    spans = zip(path.penalties, [*path.penalties[1:], 0.0], path.supports, strict=True)
    for high, low, support in spans:
        penalty = (high + low) / 2
        beta = lasso(ridged, b, penalty, tolerance=1e-13)
        gradient = b - ridged @ beta
        assert np.abs(gradient).max() <= penalty + 1e-9
        np.testing.assert_allclose(gradient[beta != 0], penalty * np.sign(beta[beta != 0]), atol=1e-9)
        if high - low > 1e-4 * path.penalties[0]:
            assert set(np.flatnonzero(beta)) == set(support)
    assert lasso(a, b, path.penalties[0] * 1.001).any() == np.False_


@pytest.mark.parametrize("seed", range(4))
def test_the_best_by_score_are_the_set_of_exactly_that_width(seed: int) -> None:
    a, b = _problem(seed)
    path = lasso_path(a, b)
    order = np.argsort(-path.entered, kind="stable")
    for width in range(1, 12):
        expected = path.of_width(width)
        assert expected == tuple(exact_width(a, b, width))
        assert set(order[:width]) == set(expected)


def test_a_factor_that_passes_through_zero_leaves_and_its_unit_ranks_where_it_came_back_to_stay() -> None:
    left = [
        path
        for path in (lasso_path(*_problem(s, 20, 25, 0.3)) for s in range(0, 12, 2))
        if _leaves(path.supports)
    ]
    assert left  # such problems exist
    for path in left:
        order = np.argsort(-path.entered, kind="stable")
        # Whoever stays from some point on ranks before all that come after it.
        for penalty, support in zip(path.penalties, path.supports, strict=True):
            stayed = {c for c in support if path.entered[c] >= penalty}
            assert stayed == set(order[: len(stayed)])


def _leaves(supports: tuple[tuple[int, ...], ...]) -> bool:
    return any(len(after) < len(before) for before, after in itertools.pairwise(supports))


def test_widths_are_exact_even_where_columns_are_twins() -> None:
    a, b = _problem(1)
    twin = np.r_[0:12, 3]
    a, b = a[np.ix_(twin, twin)], b[twin]
    for width in (0, 1, 5, 12, 13):
        assert len(set(exact_width(a, b, width))) == width
    with pytest.raises(CriterionError, match="width 14 of 13"):
        exact_width(a, b, 14)
    path = lasso_path(a, b)
    assert np.isfinite(path.entered).all() and (path.entered > 0).sum() >= 12


def test_products_of_patches_give_the_regression_of_the_outputs_on_contributions() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, 3 * 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, 3, 2, 2, generator=generator, dtype=torch.float64)
    y = (x[:, 0] @ weight.flatten(1).T + 0.1 * torch.randn(40, 5, generator=generator, dtype=torch.float64))[
        :, None
    ]
    gram = Gram()
    gram.add(Rows(x, y))
    zz, zy = contribution_gram(gram.xx, gram.xy, weight, 4)
    z = torch.einsum("nik,oik->noi", x.reshape(40, 3, 4), weight.reshape(5, 3, 4)).reshape(200, 3)
    torch.testing.assert_close(zz, z.T @ z)
    torch.testing.assert_close(zy, z.T @ y.reshape(200))


def test_scores_order_units_of_groups_and_leave_silent_ones_for_last() -> None:
    torch.manual_seed(0)
    model = settle(NETS["residual"]())
    with torch.no_grad():
        model.a2[0].weight[:, 2] = 0.0  # type: ignore[index, union-attr]
        model.b2[0].weight[:, 3] *= 50.0  # type: ignore[index, union-attr]
    found = score(*analysed(model), "lasso", [images(), images(3, 1)], positions=20)
    assert found["a1.0"][2] == 0 and (found["a1.0"] > 0).sum() >= 4
    assert found["b1.0"].argmax() == 3
    heads = score(*analysed(Block()), "lasso", [images()])["qkv"]
    assert heads.shape == (4,) and (heads > 0).all()


def test_positions_are_the_same_for_the_same_seed() -> None:
    torch.manual_seed(0)
    pair = analysed(settle(NETS["plain"]()))
    data = [images()]
    first, again, other = (score(*pair, "lasso", data, positions=3, seed=s)["stem.0"] for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert path_scores(np.zeros((3, 3))).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(UsageError, match="0 positions"):
        get("lasso", positions=0)
