"""Properties that several criteria rest on, and where they end."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.importance import score
from hwprune.importance.curvature import greedy_increments
from hwprune.importance.gatespace import GateSpace
from hwprune.importance.readers import find_readers
from hwprune.importance.relief import prefix, shares_of, signals_of
from tests.importance.cases import labelled, opened, perceptron
from tests.importance.nets import analysed, convolution
from tests.nets import settle


class Chain(nn.Module):
    """Convolution, BatchNorm, an activation, pooling, convolution."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.activation = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), activation
        self.last = nn.Conv2d(6, 3, 3)
        settle(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm(self.first(x)))
        return self.last(F.max_pool2d(x, 2)).flatten(1)


@pytest.mark.parametrize(("activation", "same"), [(nn.ReLU(), True), (nn.SiLU(), False)])
def test_factors_before_and_behind_an_activation_differ_unless_it_is_homogeneous(
    activation: nn.Module, same: bool
) -> None:
    model = Chain(activation)
    captured, deps = opened(model, 2, 3, 8, 8)
    x, y = labelled(captured, 5)
    found = {
        at: space.gradient(F.cross_entropy(space.model(x), y))["first"].detach()
        for at, space in ((at, GateSpace(captured, deps, at)) for at in ("gate", "consumers"))
    }
    twin = copy.deepcopy(model)
    F.cross_entropy(twin(x), y).backward()
    made = _product(twin.norm.weight) + _product(twin.norm.bias)
    read = _product(twin.last.weight).sum((0, 2, 3))
    # The weights that read a unit always say what a factor there does.
    torch.testing.assert_close(found["consumers"], read)
    assert torch.allclose(made, read, rtol=1e-6) == same
    if same:
        torch.testing.assert_close(found["gate"], made)


def _product(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.detach() * parameter.grad


def test_second_derivatives_of_factors_behind_batchnorm_are_those_along_scale_and_shift() -> None:
    model = Chain(nn.ReLU())
    captured, deps = opened(model, 2, 3, 8, 8)
    x, y = labelled(captured, 5)
    space = GateSpace(captured, deps, "gate")
    one = {"first": torch.ones(6, dtype=torch.float64)}
    _, product = space.hessian_product(F.cross_entropy(space.model(x), y), one)
    scale, shift = model.norm.weight.detach(), model.norm.bias.detach()
    flat = torch.cat([scale, shift])

    def loss(both: Tensor) -> Tensor:
        own = {"norm.weight": both[:6], "norm.bias": both[6:]}
        return F.cross_entropy(torch.func.functional_call(captured.model, own, (x,)), y)

    hessian = torch.autograd.functional.hessian(loss, flat)
    assert isinstance(hessian, Tensor)
    units = torch.cat([torch.diag(scale), torch.diag(shift)], 1)  # theta_s, zero elsewhere
    torch.testing.assert_close(product["first"], units @ hessian @ units.sum(0))
    (gradient,) = torch.autograd.grad(loss(flat.requires_grad_()), [flat])
    expected = (units @ gradient).abs() + 0.5 * (units @ hessian @ units.sum(0)).abs()
    found = score(captured, deps, "sosp_h", [(x, y)], at="gate")["first"]
    torch.testing.assert_close(found, expected.detach())


def test_greedy_removal_from_a_linear_model_goes_by_the_whole_hessian() -> None:
    def squares(outputs: Tensor, _: object) -> Tensor:
        return 0.5 * (outputs**2).sum(1).mean()

    captured, deps = perceptron(activation="relu")
    x = labelled(captured, 7)[0]
    hidden, head = captured.model.get_submodule("hidden"), captured.model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    # The outputs are linear in the factors: columns of the Jacobian are contributions.
    z = torch.relu(hidden(x))[:, None, :] * head.weight
    matrix = torch.einsum("nou,nov->uv", z, z).detach().numpy() / len(x)
    slope = torch.einsum("no,nou->u", head(torch.relu(hidden(x))), z).detach().abs().numpy() / len(x)
    order, rises = greedy_increments(slope, lambda u: matrix[:, u], matrix.diagonal())
    found = score(captured, deps, "sosp_i", [x], loss=squares, probes=None)["hidden"].numpy()
    np.testing.assert_allclose(found[order[:-1]], np.maximum.accumulate(rises[order[:-1]]), rtol=1e-6)
    # The cross terms matter: by the diagonal the order is another one.
    assert np.argsort(slope + 0.5 * matrix.diagonal()).tolist() != order.tolist()


@pytest.mark.parametrize("parameters", [{}, {"l2": 0.0}, {"smooth": True}])
def test_enlarging_a_weight_never_lowers_its_sparsity_index(parameters: dict[str, object]) -> None:
    """Two weights of another filter move against it: threshold and largest norm stay as they are."""
    values: list[float] = []
    for w in np.linspace(0.0, 1.9, 20):
        # p + q and p^2 + q^2 such that all weights keep their sum and their sum of squares.
        root = math.sqrt(12 - 3 * w * w) / 2
        rows = [[4.0, 0, 0, 0], [float(w), -2, 2, 0.1], [-w / 2 + root, -w / 2 - root, 0.7, -0.7]]
        model = nn.Sequential(convolution(rows), convolution([[1.0] * 3]))
        found = score(*analysed(model, torch.randn(1, 4, 4, 4)), "regularized_sparsity", **parameters)["0"]  # type: ignore[arg-type]
        values.append(float(found[1]))
    assert (np.diff(values) >= -1e-6).all()
    # Its weight passes the threshold on the way: a quarter of the filter.
    assert values[-1] - values[0] > 0.2


@pytest.mark.parametrize("bias", [False, True])
def test_larger_inputs_change_the_mask_of_relief_only_beside_a_bias(bias: bool) -> None:
    torch.manual_seed(0)
    last = nn.Linear(12, 4, bias=bias)
    if bias:
        last.bias.data.fill_(3.0)
    model = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), last)
    captured, deps = analysed(model, torch.randn(2, 5))
    (reader,) = find_readers(captured, deps, criterion="relief")
    mean = torch.rand(12, dtype=torch.float64)
    small, large = (
        prefix(shares_of(signals_of(reader, factor * mean, "norm")), 0.8)[:, :12] for factor in (1.0, 20.0)
    )
    assert torch.equal(small, large) != bias


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_a_filter_of_zeros_goes_first_and_scale_changes_no_order(name: str) -> None:
    torch.manual_seed(0)
    model = Chain(nn.ReLU())
    with torch.no_grad():
        model.first.weight[4] = 0.0
    before = score(*opened(model, 2, 3, 8, 8), name)["first"]
    with torch.no_grad():
        model.first.weight *= 1e-3
    after = score(*opened(model, 2, 3, 8, 8), name)["first"]
    assert before.argmin() == 4 and before[4] == 0.0
    torch.testing.assert_close(after, before, rtol=1e-6, atol=0)
