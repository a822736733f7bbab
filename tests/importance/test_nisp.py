"""Score propagation against adjoints, sums over paths, and truncated series."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.errors import CriterionError, UsageError
from hwprune.importance import get, score
from hwprune.importance.inf_fs import affinity, inf_fs, infinite_paths
from hwprune.importance.last_layer import final_layers
from tests.importance.transformer import Block, analysed, images
from tests.nets import NETS, Concat, settle


def _normalised(scores: Tensor) -> Tensor:
    return scores / scores.sum()


def test_infinite_paths_are_the_sum_of_all_powers() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(6, 6, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T
    scaled = 0.9 * matrix / torch.linalg.eigvalsh(matrix).abs().max()
    series, power = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    for _ in range(400):
        power = scaled @ power
        series += power
    torch.testing.assert_close(infinite_paths(matrix), series)
    assert infinite_paths(torch.zeros(3, 3, dtype=torch.float64)).tolist() == [0.0, 0.0, 0.0]


def test_affinity_by_hand() -> None:
    features = torch.tensor(
        [[1.0, 2, 5, 1], [2, 1, 5, 2], [3, 0, 5, 90], [4, -1, 5, 91]], dtype=torch.float64
    )
    found = affinity(features)
    spread = features.std(0) / features.std(0).max()
    # Rank correlations: 0 and 3 rise together, 1 falls, 2 is constant and correlates with nothing.
    magnitude = torch.tensor([[1.0, 1, 0, 1], [1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(found, 0.5 * torch.maximum(spread[:, None], spread) + 0.5 * (1 - magnitude))
    scaled = inf_fs(1000.0 * features)
    torch.testing.assert_close(scaled, inf_fs(features))
    with pytest.raises(CriterionError, match="2 examples"):
        affinity(features[:2])


def _mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


def test_scores_of_an_mlp_are_sums_over_paths() -> None:
    model = _mlp()
    captured, deps = analysed(model, (4, 5))
    data = [images(8, shape=(5,))]
    final = _normalised(inf_fs(model[:4](data[0]).detach()))
    found = score(captured, deps, "nisp", data)
    torch.testing.assert_close(found["2"], final)
    weight = model[2].weight.detach().abs()
    paths = torch.stack([sum(weight[k, j] * final[k] for k in range(4)) for j in range(6)])  # type: ignore[arg-type]
    torch.testing.assert_close(found["0"], _normalised(paths))
    found = score(captured, deps, "nisp", data, final="weights")
    torch.testing.assert_close(found["2"], _normalised(model[4].weight.detach().abs().sum(0)))


def test_a_unit_without_outgoing_weights_scores_nothing() -> None:
    model = _mlp()
    with torch.no_grad():
        model[2].weight[:, 3] = 0.0
    found = score(*analysed(model, (4, 5)), "nisp", [images(8, shape=(5,))])["0"]
    assert found[3] == 0 and (found > 0).sum() == 5


def test_convolution_batchnorm_and_pooling_are_the_adjoint_of_the_absolute_network() -> None:
    torch.manual_seed(0)
    model = settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )
    )
    assert isinstance(model, nn.Sequential)
    captured, deps = analysed(model)
    data = [images(6)]
    final = _normalised(inf_fs(model[:8](data[0]).detach()))
    norm, conv = model[4], model[3]
    at_conv = final.reshape(1, 8, 1, 1).expand(1, 8, 2, 2) / 4
    at_conv = at_conv * (norm.weight.abs() / (norm.running_var + norm.eps).sqrt()).detach().reshape(
        1, 8, 1, 1
    )
    at_pool = F.conv_transpose2d(at_conv, conv.weight.detach().abs(), None, 2, 1, 1, 2)
    # Every value of a window gets a ninth of what its maximum has.
    spread = F.conv_transpose2d(at_pool, torch.full((6, 1, 3, 3), 1 / 9).double(), None, 2, 1, 1, 6)
    units = spread.sum((0, 2, 3))
    expected = units[:3] + units[3:]  # the same position of both groups is one unit
    found = score(captured, deps, "nisp", data)
    torch.testing.assert_close(found["0"], _normalised(expected))
    torch.testing.assert_close(found["3"], _normalised(final[:4] + final[4:]))


def test_a_shared_tensor_gets_the_scores_of_all_that_read_it() -> None:
    torch.manual_seed(0)
    model = Concat().double().eval()
    with torch.no_grad():
        model.norm.weight.copy_(torch.rand(10) + 0.5)
    captured, deps = analysed(model)
    found = score(captured, deps, "nisp", [images()], final="weights")
    last = model.head.weight.detach().abs().sum(0) / 64
    at_d = (model.d.weight.detach().abs()[:, :, 0, 0].T @ last).reshape(1, 15, 1, 1).expand(1, 15, 8, 8)
    at_c = at_d[:, :5]
    scale = (model.norm.weight.abs() / (model.norm.running_var + model.norm.eps).sqrt()).detach()
    at_ab = at_d[:, 5:] + scale.reshape(1, 10, 1, 1) * F.conv_transpose2d(
        at_c, model.c.weight.detach().abs(), None, 1, 1
    )
    at_a = at_ab[:, :4] + F.conv_transpose2d(at_ab[:, 4:], model.b.weight.detach().abs(), None, 1, 1)
    torch.testing.assert_close(found["b"], _normalised(at_ab[:, 4:].sum((0, 2, 3))))
    torch.testing.assert_close(found["a"], _normalised(at_a.sum((0, 2, 3))))


def test_what_will_go_passes_no_score_on() -> None:
    model = _mlp()
    captured, deps = analysed(model, (4, 5))
    data = [images(8, shape=(5,))]
    found = score(captured, deps, "nisp", data, widths={"2": 2})
    final = _normalised(inf_fs(model[:4](data[0]).detach()))
    torch.testing.assert_close(found["2"], final)
    kept = torch.where(final >= final.sort().values[2], final, 0.0)
    torch.testing.assert_close(found["0"], _normalised(model[2].weight.detach().abs().T @ kept))
    with pytest.raises(UsageError, match="unknown groups"):
        score(captured, deps, "nisp", data, widths={"nobody": 1})
    with pytest.raises(UsageError, match="final"):
        get("nisp", final="ones")


@pytest.mark.parametrize("name", [*NETS, "block"])
def test_every_group_gets_scores_and_doubling_what_arrives_changes_no_share(name: str) -> None:
    torch.manual_seed(0)
    model = settle((Block if name == "block" else NETS[name])()).double().eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    captured, deps = analysed(model)
    found = score(captured, deps, "nisp", [images()])
    for value in found.values():
        assert (value > 0).all() and float(value.sum()) == pytest.approx(1.0)
    with torch.no_grad():
        model.get_submodule("head").weight *= 2.0  # type: ignore[operator]
    doubled = score(*analysed(model), "nisp", [images()], final="weights")
    with torch.no_grad():
        model.get_submodule("head").weight /= 2.0  # type: ignore[operator]
    for key, value in score(*analysed(model), "nisp", [images()], final="weights").items():
        torch.testing.assert_close(value, doubled[key])
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


class Explicit(nn.Module):
    """Attention as products and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.out(torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1) @ v)


def test_products_of_activations_pass_scores_to_both() -> None:
    torch.manual_seed(0)
    model = Explicit()
    captured, deps = analysed(model, (4, 5, 6))
    found = score(captured, deps, "nisp", [images(4, shape=(5, 6))], final="weights")
    values = next(
        name for name, g in found.items() if any(m.param == "v.weight" for m in deps.group(name).members)
    )
    torch.testing.assert_close(found[values], _normalised(model.out.weight.detach().abs().sum(0)))
    assert all((value > 0).all() for value in found.values())


class Scaled(nn.Module):
    """Factors of three kinds, and a view that needs the memory layout of a clone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.m, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1), nn.Linear(4, 3)
        self.gamma = nn.Parameter(torch.tensor([1.0, -2.0, 3.0, 0.5]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.m(torch.relu(self.a(x))) * self.gamma.view(-1, 1, 1) * -0.5 / 4.0 + 1.0
        return self.b(x.transpose(2, 3).contiguous().view(-1, 4, 64).mean(2))


def test_factors_count_by_their_size() -> None:
    torch.manual_seed(0)
    model = Scaled()
    found = score(*analysed(model), "nisp", [images(4)], final="weights")["a"]
    behind = model.b.weight.detach().abs().sum(0) * model.gamma.detach().abs()
    torch.testing.assert_close(found, _normalised(model.m.weight.detach().abs()[:, :, 0, 0].T @ behind))


def test_few_examples_and_outputs_without_a_layer_are_told(caplog: pytest.LogCaptureFixture) -> None:
    captured, deps = analysed(_mlp(), (4, 5))
    expected = score(captured, deps, "nisp", [images(8, shape=(5,))], final="weights")
    with caplog.at_level(logging.WARNING, "hwprune"):
        found = score(captured, deps, "nisp", [images(2, shape=(5,))])
    assert "2 examples are too few" in caplog.text
    assert all(torch.equal(found[name], expected[name]) for name in found)

    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _mlp()[:2]
            self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return self.a(x) * self.b(x)

    captured, deps = analysed(Summed(), (4, 5))
    assert final_layers(captured.graph)[0] == []
    with caplog.at_level(logging.WARNING, "hwprune"):
        found = score(captured, deps, "nisp", [images(8, shape=(5,))])
    assert "come from no layer" in caplog.text
    weights = captured.model.a.weight.abs() + captured.model.b.weight.abs()  # type: ignore[operator, union-attr]
    torch.testing.assert_close(found["body.0"], _normalised(weights.detach().sum(0)))


def test_operators_without_a_rule_are_named() -> None:
    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.cdist(self.b(torch.relu(self.a(x))), x[:, :4]))

    captured, deps = analysed(Distances(), (6, 5))
    assert deps.groups
    with pytest.raises(CriterionError, match=r"no rule to carry scores back through aten.*cdist"):
        score(captured, deps, "nisp", [images(6, shape=(5,))])
