"""Activations foretold from BatchNorm parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.errors import CriterionError, UsageError
from hwprune.importance import get, score
from hwprune.importance.normal import absolute_mean, expected, relu_mean, relu_second_moment
from tests.importance.nets import analysed, transformer
from tests.nets import NETS, Concat, Depthwise, Gate, Plain, Residual, settle

GAMMA = torch.tensor([1.0, -0.5, 2.0, 0.0, 5.0, 0.2], dtype=torch.float64)
BETA = torch.tensor([0.0, 0.3, -1.0, 0.7, -40.0, 3.0], dtype=torch.float64)


class Between(nn.Module):
    """Convolution, BatchNorm, an activation, convolution."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)
        self.norm.weight.data, self.norm.bias.data = GAMMA.clone(), BETA.clone()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.activation(self.norm(self.first(x))))


def _between(activation: Callable[[Tensor], Tensor], **parameters: object) -> Tensor:
    captured, deps = analysed(Between(activation))
    parameters = {"weighted": False, **parameters}
    return score(captured, deps, "bn_distribution", **parameters)["first"]  # type: ignore[arg-type]


def test_relu_none_and_second_moments() -> None:
    std = GAMMA.abs()
    torch.testing.assert_close(_between(F.relu), relu_mean(BETA, std))
    torch.testing.assert_close(_between(lambda x: x + 0.0), absolute_mean(BETA, std))
    torch.testing.assert_close(_between(F.relu, moment="second"), relu_second_moment(BETA, std).sqrt())
    plain = (BETA**2 + GAMMA**2).sqrt()
    torch.testing.assert_close(_between(lambda x: F.dropout(x, 0.5, training=False), moment="second"), plain)
    # A dead channel has a large scale; the criterion of the scales takes it for the best one.
    found = _between(F.relu)
    assert found.argmin() == 4 and found[4] < 1e-12
    captured, deps = analysed(Between(F.relu))
    assert score(captured, deps, "bn_scale")["first"].argmax() == 4


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu of tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardswish": F.hardswish,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "leaky relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 0.7),
    "mish": F.mish,
    "hardtanh": F.hardtanh,
    "clamp": lambda x: torch.clamp(x, -0.5, 2.0),
    "clamp from below": lambda x: torch.clamp(x, min=0.1),
}


class _All(nn.Module):
    """One branch for every activation."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Between(f) for f in ACTIVATIONS.values())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def test_activations_are_found_in_the_graph_with_their_arguments() -> None:
    captured, deps = analysed(_All())
    means = score(captured, deps, "bn_distribution", weighted=False)
    roots = score(captured, deps, "bn_distribution", moment="second", weighted=False)
    # A kink too many is harmless: quadrature goes from one to the next.
    kinks = [-3.0, -1.0, -0.5, 0.0, 0.1, 1.0, 2.0, 3.0, 6.0]
    for number, (name, f) in enumerate(ACTIVATIONS.items()):
        group = f"branches.{number}.first"
        truth = expected(lambda x, f=f: f(x).abs(), BETA, GAMMA.abs(), kinks)
        torch.testing.assert_close(means[group], truth, rtol=1e-9, atol=1e-12, msg=name)
        truth = expected(lambda x, f=f: f(x) ** 2, BETA, GAMMA.abs(), kinks).sqrt()
        torch.testing.assert_close(roots[group], truth, rtol=1e-7, atol=1e-7, msg=name)


def test_the_weights_that_read_a_unit_count() -> None:
    model = Between(F.relu)
    captured, deps = analysed(model)
    found = score(captured, deps, "bn_distribution")["first"]
    torch.testing.assert_close(found, _between(F.relu) * model.last.weight.detach().abs().sum((0, 2, 3)))


def test_scaling_a_channel_up_and_its_readers_down_changes_nothing() -> None:
    model = settle(Residual())
    before = score(*analysed(model), "bn_distribution")
    factors = torch.rand(10, dtype=torch.float64) * 9 + 0.5
    model.c1[1].weight.data *= factors
    model.c1[1].bias.data *= factors
    model.c2[0].weight.data /= factors[:, None, None]
    after = score(*analysed(model), "bn_distribution")
    torch.testing.assert_close(before["c1.0"], after["c1.0"])
    without = score(*analysed(model), "bn_distribution", weighted=False)["c1.0"]
    assert without.argsort().tolist() != after["c1.0"].argsort().tolist()


def test_the_mean_over_the_tensors_is_weighted() -> None:
    model = settle(_Branches())
    captured, deps = analysed(model)
    (both,) = score(captured, deps, "bn_distribution", weighted=False).values()
    (found,) = score(captured, deps, "bn_distribution").values()
    read = model.inner.weight.detach().abs().sum((0, 2, 3)) + model.out.weight.detach().abs().sum((0, 2, 3))
    torch.testing.assert_close(found, both / 2 * read)


class _Branches(nn.Module):
    """Two normalised branches into one sum, then a block with an identity shortcut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.inner = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(5, 5, 1)
        self.na, self.nb, self.n = nn.BatchNorm2d(5), nn.BatchNorm2d(5), nn.BatchNorm2d(5)
        self.out = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.na(self.a(x)) + self.nb(self.b(x)))
        return self.out(F.relu(self.n(self.inner(x)) + x))


def test_residual_sums_add_means_and_variances() -> None:
    model = settle(_Branches())
    (found,) = score(*analysed(model), "bn_distribution", weighted=False).values()
    mean = model.na.bias + model.nb.bias
    variance = model.na.weight**2 + model.nb.weight**2
    first = relu_mean(mean, variance.sqrt())
    kept = relu_second_moment(mean, variance.sqrt()) - first**2
    second = relu_mean(model.n.bias + first, (model.n.weight**2 + kept).sqrt())
    torch.testing.assert_close(found, (first + second).detach())


def test_a_foretold_sum_is_what_independent_branches_have() -> None:
    model = settle(_Branches())
    captured, deps = analysed(nn.Sequential(*[_Only(model)]))
    (found,) = score(captured, deps, "bn_distribution", weighted=False).values()
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(200_000, 5, dtype=torch.float64)
    for norm in (model.na, model.nb):
        total += norm.bias + norm.weight * torch.randn(total.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(found, F.relu(total).mean(0).detach(), rtol=0.02, atol=0)


class _Only(nn.Module):
    """The first sum of the branches."""

    def __init__(self, model: _Branches) -> None:
        super().__init__()
        self.m = model

    def forward(self, x: Tensor) -> Tensor:
        return self.m.out(F.relu(self.m.na(self.m.a(x)) + self.m.nb(self.m.b(x))))


def _relu(norm: nn.Module) -> Tensor:
    return relu_mean(norm.bias.detach(), norm.weight.detach().abs())  # type: ignore[operator, union-attr]


def test_depthwise_layers_hand_on_and_linear_bottlenecks_are_folded_normal() -> None:
    model = settle(Depthwise())
    scores = score(*analysed(model), "bn_distribution", weighted=False)
    # What the depthwise convolution reads does not count, what it makes does.
    torch.testing.assert_close(scores["expand.0"], _relu(model.depthwise[1]))
    torch.testing.assert_close(scores["mix.0"], _relu(model.mix[1]))


def test_a_group_without_a_norm_behind_its_depthwise_layer_is_judged_before_it() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1)
    )
    settle(model)
    found = score(*analysed(model), "bn_distribution", weighted=False)["0"]
    mean, std = model[1].bias.detach(), model[1].weight.detach()
    torch.testing.assert_close(found, expected(F.relu6, mean, std, (0.0, 6.0)))


def test_gates_and_pooling_count_once() -> None:
    model = settle(Gate())
    scores = score(*analysed(model), "bn_distribution", weighted=False)
    torch.testing.assert_close(scores["conv.0"], _relu(model.conv[1]))


def test_a_norm_of_concatenated_channels_counts_for_each_of_its_groups() -> None:
    model = settle(Concat())
    captured, deps = analysed(model)
    scores = score(captured, deps, "bn_distribution", weighted=False)
    both = _relu(model.norm)
    torch.testing.assert_close(scores["a"], both[:4])
    torch.testing.assert_close(scores["b"], both[4:])


def test_activations_behind_a_concatenation() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.na = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(4)
            self.out = nn.Conv2d(7, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(torch.cat([self.b(x), self.na(self.a(x))], 1)))

    model = settle(Net())
    scores = score(*analysed(model), "bn_distribution", weighted=False)
    torch.testing.assert_close(scores["a"], _relu(model.na))
    norm = model.b.weight.detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(scores["b"], norm * scores["a"].median() / norm.median())


def test_groups_without_a_norm_get_filter_norms(caplog: pytest.LogCaptureFixture) -> None:
    model = settle(Plain())
    scores = score(*analysed(model), "bn_distribution", weighted=False)
    assert "bn_distribution: L2 filter norms stand in for groups without a BatchNorm: conv" in caplog.text
    torch.testing.assert_close(scores["stem.0"], _relu(model.stem[1]))
    assert scores["conv"].median() == pytest.approx(scores["stem.0"].median().item())


def test_filters_of_zeros_do_not_set_the_scale_of_the_others() -> None:
    model = settle(Plain())
    model.conv.weight.data[:7] = 0.0
    for criterion in ("bn_scale", "bn_distribution"):
        found = score(*analysed(model), criterion)
        assert found["conv"][:7].tolist() == [0.0] * 7
        assert found["conv"][7:].max() < 10 * found["stem.0"].max()


@pytest.mark.parametrize("name", NETS)
def test_every_structure_is_scored(name: str) -> None:
    captured, deps = analysed(settle(NETS[name]()))
    for value in score(captured, deps, "bn_distribution").values():
        assert bool((value >= 0).all()) and float(value.sum()) > 0


def test_units_of_several_channels_are_summed() -> None:
    model = settle(NETS["grouped"]())
    found = score(*analysed(model), "bn_distribution", weighted=False)["grouped.0"]
    each = _relu(model.grouped[1])
    torch.testing.assert_close(found, each[:4] + each[4:])


@pytest.mark.parametrize("criterion", ["bn_scale", "bn_distribution"])
def test_scales_of_layernorms_are_not_taken_for_those_of_batchnorms(criterion: str) -> None:
    with pytest.raises(CriterionError, match=f"{criterion} needs BatchNorm layers") as caught:
        score(*transformer(), criterion)
    assert "use l1 or l2" in str(caught.value)


def test_weights_that_are_not_numbers_are_named() -> None:
    model = settle(Residual())
    model.a2[1].weight.data[3] = math.nan
    with pytest.raises(CriterionError, match=r"1 of 8 values of a2\.1\.weight are NaN or infinite"):
        score(*analysed(model), "bn_distribution")
    with pytest.raises(CriterionError, match="so criterion fpgm can score nothing"):
        score(*analysed(model), "fpgm")


def test_an_unknown_moment_is_refused() -> None:
    with pytest.raises(UsageError, match="no moment 'third'"):
        get("bn_distribution", moment="third")
