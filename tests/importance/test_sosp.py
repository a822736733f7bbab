"""SOSP against explicit Hessians."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hwprune.errors import CriterionError, UsageError
from hwprune.importance import curvature as curvature_module
from hwprune.importance import get, score
from hwprune.importance.batches import split_batch
from hwprune.importance.curvature import Curvature, greedy_increments
from hwprune.importance.gatespace import GateSpace
from hwprune.importance.output_curvature import output_curvature
from tests.importance.cases import labelled, network, opened, perceptron


def _joined(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.detach() for value in values.values()])


def _hessian(space: GateSpace, loss_of) -> Tensor:  # type: ignore[no-untyped-def]
    """Row by row."""
    rows: list[Tensor] = []
    for name, gate in space.gates.items():
        for unit in range(len(gate)):
            direction = {n: torch.zeros_like(g) for n, g in space.gates.items()}
            direction[name][unit] = 1.0
            rows.append(_joined(space.hessian_product(loss_of(), direction)[1]))
    return torch.stack(rows)


def test_gates_on_producers_are_directions_in_the_space_of_parameters() -> None:
    captured, deps = perceptron()
    x, y = labelled(captured, 6)
    space = GateSpace(captured, deps, "producers")
    found = _hessian(space, lambda: F.cross_entropy(space.model(x), y))
    weight, bias = (captured.graph.get_parameter(f"hidden.{name}").detach() for name in ("weight", "bias"))
    flat = torch.cat([weight, bias.unsqueeze(1)], 1).flatten()

    def loss(parameters: Tensor) -> Tensor:
        both = parameters.view(6, 5)
        own = {"hidden.weight": both[:, :4], "hidden.bias": both[:, 4]}
        return F.cross_entropy(torch.func.functional_call(captured.graph, own, (x,)), y)

    hessian = torch.autograd.functional.hessian(loss, flat)
    units = torch.block_diag(*flat.view(6, 5))  # theta_s, zero elsewhere, for every unit s
    torch.testing.assert_close(found, units @ hessian @ units.T)
    # One product with the sum of all gives the rows' sums; signed, they add up to the whole.
    _, product = space.hessian_product(F.cross_entropy(space.model(x), y))
    total = units.sum(0)
    torch.testing.assert_close(product["hidden"], units @ hessian @ total)
    torch.testing.assert_close(product["hidden"].sum(), total @ hessian @ total)
    (gradient,) = torch.autograd.grad(loss(flat.requires_grad_()), [flat])
    expected = (units @ gradient).abs() + 0.5 * (units @ hessian @ total).abs()
    torch.testing.assert_close(
        score(captured, deps, "sosp_h", [(x, y)], at="producers")["hidden"], expected.detach()
    )


@pytest.mark.parametrize(("name", "options"), [("sosp_h", {}), ("sosp_i", {"selection": "diagonal"})])
def test_batches_and_parts_of_batches_add_up(name: str, options: dict[str, str]) -> None:
    captured, deps = network("residual")
    x, y = labelled(captured, 20)
    whole = score(captured, deps, name, [(x, y)], **options)
    parts = score(captured, deps, name, [(x[:3], y[:3]), (x[3:], y[3:])], **options)
    for group in whole:
        torch.testing.assert_close(whole[group], parts[group])


def _squares(outputs: Tensor, _: object) -> Tensor:
    return 0.5 * (outputs**2).sum(1).mean()


def test_a_linear_model_with_squared_error_has_the_gauss_newton_curvature() -> None:
    # One factor per unit in front of one linear layer: the outputs are linear in the factors.
    captured, deps = perceptron(activation="relu")
    x = labelled(captured, 7)[0]
    space = GateSpace(captured, deps, "consumers")
    exact = _hessian(space, lambda: _squares(space.model(x), None))
    slope = space.gradient(_squares(space.model(x), None))["hidden"].detach()
    found = score(captured, deps, "sosp_i", [x], loss=_squares, selection="diagonal")["hidden"]
    torch.testing.assert_close(found, slope.abs() + 0.5 * exact.diagonal())


@pytest.mark.parametrize("name", ["residual", "tokens"])
def test_directions_of_the_output_curvature_multiply_to_it(name: str) -> None:
    captured, _ = network(name)
    batch = split_batch(labelled(captured, 5))
    outputs = captured.graph(*batch.inputs).detach()
    generator = torch.Generator().manual_seed(0)

    def product(loss, probes: int | None) -> Tensor:  # type: ignore[no-untyped-def]
        options = {"probes": probes, "generator": generator, "criterion": "test"}
        found = torch.stack(list(output_curvature(outputs, batch, loss, **options)))
        return torch.einsum("kni,knj->nij", found, found)

    p = outputs.softmax(1)
    exact = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    torch.testing.assert_close(product(None, None), exact)
    torch.testing.assert_close(product(F.cross_entropy, None), exact)
    for loss in (None, F.cross_entropy):
        assert (product(loss, 4000) - exact).norm() / exact.norm() < 0.1


def test_with_units_that_do_not_interact_sosp_h_and_sosp_i_have_the_same_curvature() -> None:
    captured, deps = perceptron(3, activation="relu")
    with torch.no_grad():
        captured.graph.get_parameter("head.weight").copy_(torch.diag(torch.tensor([1.0, -2.0, 0.5])))
    x = labelled(captured, 9)[0]
    h = score(captured, deps, "sosp_h", [x], loss=_squares)["hidden"]
    i = score(captured, deps, "sosp_i", [x], loss=_squares, selection="diagonal")["hidden"]
    torch.testing.assert_close(h, i)


def _value(slope: np.ndarray, matrix: np.ndarray, chosen: list[int]) -> float:
    return float(slope[chosen].sum() + 0.5 * abs(matrix[np.ix_(chosen, chosen)].sum()))


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_greedy_increments_add_up_and_each_is_the_least(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature_module, "MOST_BYTES", limit)
    rng = np.random.default_rng(0)
    vectors, slope = rng.normal(size=(4, 7)), rng.random(7)
    curvature = Curvature(7)
    curvature.add(vectors[:1])
    curvature.add(vectors[1:])
    matrix = vectors.T @ vectors
    np.testing.assert_allclose(curvature.diagonal(), matrix.diagonal(), rtol=1e-5)
    order, rises = greedy_increments(slope, curvature.column, curvature.diagonal())
    for count in range(1, 8):
        gone = order[:count].tolist()
        assert rises[gone].sum() == pytest.approx(_value(slope, matrix, gone), rel=1e-5)
        others = [u for u in range(7) if u not in gone[:-1]]
        best = min(_value(slope, matrix, [*gone[:-1], u]) for u in others)
        assert _value(slope, matrix, gone) == pytest.approx(best, rel=1e-5)
    # Where one unit saves far more than the others, it goes first.
    cost = np.ones(7)
    cost[order[-1]] = 1e6
    assert greedy_increments(slope, curvature.column, curvature.diagonal(), cost=cost)[0][0] == order[-1]


def test_scores_of_sosp_i_follow_the_order_of_removal() -> None:
    captured, deps = network("residual")
    data = [labelled(captured, 6), labelled(captured, 4, seed=1)]
    found = score(captured, deps, "sosp_i", data, probes=None)
    space = GateSpace(captured, deps, "consumers")
    # By hand: Jacobians of every class, one example after the other.
    total, slope, examples = 0.0, 0.0, 0
    for x, y in data:
        for one, label in zip(x.split(1), y.split(1), strict=True):
            p = captured.graph(one).softmax(1)[0].detach()
            outputs = space.model(one)[0]
            rows = [torch.autograd.grad(o, list(space.gates.values()), retain_graph=True) for o in outputs]
            jacobian = torch.stack([torch.cat(row) for row in rows])
            total = total + jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
            slope = slope + _joined(space.gradient(F.cross_entropy(space.model(one), label)))
            examples += 1
    matrix, slope = (total / examples).numpy(), (slope / examples).abs().numpy()
    order, rises = greedy_increments(slope, lambda u: matrix[:, u], matrix.diagonal())
    joined = torch.cat(list(found.values())).numpy()
    last = {max(range(*span), key=order.tolist().index) for span in _spans(deps)}
    free = [u for u in order if u not in last]
    np.testing.assert_allclose(
        joined[free], np.maximum.accumulate(rises[order])[[u not in last for u in order]]
    )
    assert (joined[sorted(last)] == joined.max()).all()
    close = torch.cat(list(score(captured, deps, "sosp_i", data, probes=3, selection="diagonal").values()))
    exact = torch.cat(list(score(captured, deps, "sosp_i", data, probes=None, selection="diagonal").values()))
    assert np.corrcoef(close, exact)[0, 1] > 0.9


def _spans(deps) -> list[tuple[int, int]]:  # type: ignore[no-untyped-def]
    ends = list(itertools.accumulate(g.size for g in deps.groups))
    return list(zip([0, *ends[:-1]], ends, strict=True))


@pytest.mark.parametrize("name", ["sosp_h", "sosp_i", "gradient_matrix"])
def test_bad_data_and_options_are_refused(name: str) -> None:
    captured, deps = network("residual")
    x, y = labelled(captured, 1)
    assert all(bool(value.any()) for value in score(captured, deps, name, [(x, y)]).values())
    for data, message in (([], "is empty"), ([(x * float("nan"), y)], "nan"), ([x], "needs labels")):
        with pytest.raises(CriterionError, match=message):
            score(captured, deps, name, data)
    with pytest.raises(CriterionError, match="depends on no channel"):
        score(captured, deps, name, [x], loss=lambda outputs, _: outputs.detach().sum() * 0 + 1.0)
    with pytest.raises(UsageError, match="no place 'here'"):
        get(name, at="here")


def test_costs_and_options_of_sosp_i() -> None:
    captured, deps = network("residual")
    data = [labelled(captured, 6)]
    with pytest.raises(CriterionError, match=r"no positive number for .*c2"):
        score(
            captured, deps, "sosp_i", data, latency={g.name: 1.0 for g in deps.groups if "c2" not in g.name}
        )
    costs = {g.name: 1e9 if g.name == "c1.0" else 1.0 for g in deps.groups}
    found = score(captured, deps, "sosp_i", data, latency=costs)
    free = score(captured, deps, "sosp_i", data)

    def earlier(scores: dict[str, Tensor]) -> int:
        eighth = scores["c1.0"].sort().values[7]
        return sum(int((value < eighth).sum()) for name, value in scores.items() if name != "c1.0")

    assert earlier(found) < earlier(free)
    for wrong in ({"probes": 0}, {"selection": "random"}):
        with pytest.raises(UsageError):
            get("sosp_i", **wrong)


def test_class_scores_per_position_need_probes() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 1))
    captured, deps = opened(model, 2, 3, 2, 2)
    x, y = torch.randn(3, 3, 2, 2, dtype=torch.float64), torch.randint(0, 3, (3, 2, 2))
    with pytest.raises(UsageError, match="4 positions per example"):
        score(captured, deps, "sosp_i", [(x, y)], probes=None)
    close = score(captured, deps, "sosp_i", [(x, y)], probes=2000, selection="diagonal")["0"]
    space = GateSpace(captured, deps, "consumers")
    exact = score(
        captured, deps, "sosp_i", [(x, y)], loss=F.cross_entropy, probes=None, selection="diagonal"
    )["0"]
    assert set(space.gates) == {"0"}
    torch.testing.assert_close(close, exact, rtol=0.2, atol=0.0)
