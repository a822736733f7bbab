"""Forms and variants of the two Taylor criteria, and of SNIP, by known answers."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwprune.capture.captured import Captured
from hwprune.dependency import Dependencies
from hwprune.errors import CriterionError, UsageError
from hwprune.importance import get, score, true_loss_change
from hwprune.importance.batches import split_batch
from hwprune.importance.gatespace import GateSpace
from hwprune.importance.momentum import Momentum
from hwprune.importance.taylor2017 import normalised
from hwprune.planner.worth import Worth
from tests.importance.cases import labelled, network, opened, perceptron
from tests.nets import settle


def _maps(weights: list[float]) -> tuple[Captured, Dependencies]:
    """A 1x1 convolution makes maps ``weights[c] * x``; the output sums each over its elements."""
    model = nn.Sequential(
        nn.Conv2d(1, len(weights), 1, bias=False), nn.Conv2d(len(weights), 1, 2, bias=False)
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(weights).view(-1, 1, 1, 1))
        model[1].weight.fill_(1.0)
    return opened(model, 2, 1, 2, 2)


def _linear(outputs: torch.Tensor, _: object) -> torch.Tensor:
    return outputs.flatten(1).sum(1).mean()


def test_with_a_linear_cost_the_score_of_2017_is_the_loss_change() -> None:
    captured, deps = _maps([1.0, -2.0, 0.5, 0.0])
    x = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    found = score(captured, deps, "taylor2017", [x], loss=_linear, normalise=False)["0"]
    change = true_loss_change(captured, deps, [x], loss=_linear)["0"]
    # Every example's change has the same sign here, so the mean of absolute values is that of the means.
    torch.testing.assert_close(4 * found, change.abs())
    # A dead map scores nothing in any variant.
    for variant in ("paper", "elementwise", "batch"):
        assert score(captured, deps, "taylor2017", [x], loss=_linear, variant=variant)["0"][3] == 0


def test_where_the_absolute_value_is_taken() -> None:
    captured, deps = _maps([1.0, 3.0])
    a = torch.tensor([[2.0, -2.0], [2.0, -2.0]], dtype=torch.float64).view(1, 1, 2, 2)
    for at in ("consumers", "gate"):
        options = {"loss": _linear, "normalise": False, "at": at}
        elements = score(captured, deps, "taylor2017", [a], variant="elementwise", **options)["0"]
        torch.testing.assert_close(elements, torch.tensor([2.0, 6.0], dtype=torch.float64))
        # Within one map the two signs cancel; over two examples they do so only without absolute values.
        pair = torch.cat([a.abs(), -a.abs()])
        paper = score(captured, deps, "taylor2017", [pair], variant="paper", **options)["0"]
        torch.testing.assert_close(paper, torch.tensor([2.0, 6.0], dtype=torch.float64))
        mixed = torch.cat([a, torch.ones_like(a)])
        torch.testing.assert_close(
            score(captured, deps, "taylor2017", [mixed], variant="paper", **options)["0"],
            torch.tensor([0.5, 1.5], dtype=torch.float64),
        )
        batch = score(captured, deps, "taylor2017", [pair + 1.0], variant="batch", **options)["0"]
        torch.testing.assert_close(batch, torch.tensor([1.0, 3.0], dtype=torch.float64))
        with pytest.raises(CriterionError, match="depends on no channel"):
            score(captured, deps, "taylor2017", [a], variant="paper", **options)


def test_norms_of_2017_are_one_and_latency_is_taken_off() -> None:
    captured, deps = network("residual")
    data = [labelled(captured, 4), labelled(captured, 3, seed=1)]
    plain = score(captured, deps, "taylor2017", data)
    for value in plain.values():
        assert value.norm().item() == pytest.approx(1.0)
    torch.testing.assert_close(normalised(torch.zeros(3)), torch.zeros(3))
    first = deps.groups[0]
    costs = {g.name: 0.02 for g in deps.groups} | {first.name: [0.01 * u for u in range(first.size)]}
    dear = score(captured, deps, "taylor2017", data, latency=costs, strength=0.5)
    torch.testing.assert_close(dear[first.name], plain[first.name] - 0.005 * torch.arange(first.size))
    torch.testing.assert_close(dear[deps.groups[1].name], plain[deps.groups[1].name] - 0.01)
    with pytest.raises(CriterionError, match="says nothing of"):
        score(captured, deps, "taylor2017", data, latency={first.name: 0.1})
    with pytest.raises(CriterionError, match=r"shape \(2,\) for group"):
        score(captured, deps, "taylor2017", data, latency=costs | {first.name: [1.0, 2.0]})
    for wrong in ({"variant": "sum"}, {"at": "weights"}, {"strength": float("nan")}):
        with pytest.raises(UsageError):
            get("taylor2017", **wrong)


def test_batches_of_several_sizes_are_averages_over_examples() -> None:
    captured, deps = network("grouped")
    x, y = labelled(captured, 20)  # more than are held at once
    for variant in ("paper", "elementwise", "batch"):
        whole = score(captured, deps, "taylor2017", [(x, y)], variant=variant)
        parts = score(captured, deps, "taylor2017", [(x[:1], y[:1]), (x[1:], y[1:])], variant=variant)
        for name in whole:
            torch.testing.assert_close(whole[name], parts[name])


def test_weight_form_is_the_sum_of_squared_products() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
        model[0].bias.zero_()
        model[1].weight.copy_(torch.tensor([[2.0, -1.0]]))
    captured, deps = opened(model, 2, 2)
    x = torch.tensor([[1.0, 4.0]], dtype=torch.float64)
    found = score(captured, deps, "taylor2019", [x], form="weight", loss=lambda out, _: out.sum())["0"]
    # d out / d w[j, i] = v[j] * x[i]; times w: (2, -16) and (-3, -2).
    torch.testing.assert_close(found, torch.tensor([4.0 + 256.0, 9.0 + 4.0], dtype=torch.float64))


def test_batchnorm_form_equals_the_gate_and_needs_a_batchnorm(caplog: pytest.LogCaptureFixture) -> None:
    captured, deps = network("depthwise")
    data = [labelled(captured)]
    gates, norms = (score(captured, deps, "taylor2019", data, form=form) for form in ("gate", "bn"))
    torch.testing.assert_close(norms["mix.0"], gates["mix.0"])
    assert "gates stand in for form bn" in caplog.text and "project" in caplog.text
    torch.testing.assert_close(norms["project"], gates["project"])
    with pytest.raises(CriterionError, match="no group has what form 'bn' reads"):
        score(*network("tokens"), "taylor2019", data, form="bn")


def test_full_gradient_is_the_sum_of_squares_over_examples() -> None:
    captured, deps = network("residual")
    x, y = labelled(captured, 4)
    found = score(captured, deps, "taylor2019", [(x, y)], form="full_gradient")
    each = [score(captured, deps, "taylor2019", [(x[i : i + 1], y[i : i + 1])]) for i in range(4)]
    for name, value in found.items():
        torch.testing.assert_close(value, sum(one[name] for one in each))


@pytest.mark.parametrize(("curvature", "probes"), [("hessian", None), ("hessian", 1), ("gauss_newton", None)])
def test_second_order_is_exact_for_a_loss_that_is_quadratic_in_each_unit(
    curvature: str, probes: int | None
) -> None:
    captured, deps = perceptron(activation="none")
    with torch.no_grad():
        # Every output reads two hidden units, so cross terms vanish only if the outputs read one.
        captured.graph.get_parameter("head.weight").zero_()
        captured.graph.get_parameter("head.weight")[:, :3] = torch.diag(torch.tensor([1.0, -2.0, 3.0]))
    data = [torch.randn(5, 4, dtype=torch.float64)]

    def squares(outputs: torch.Tensor, _: object) -> torch.Tensor:
        return ((outputs - 0.3) ** 2).sum(1).mean()

    options = {"form": "second_order", "curvature": curvature, "probes": probes}
    found = score(captured, deps, "taylor2019", data, loss=squares, **options)
    change = true_loss_change(captured, deps, data, loss=squares)
    torch.testing.assert_close(found["hidden"], change["hidden"] ** 2)
    first = score(captured, deps, "taylor2019", data, loss=squares)["hidden"]
    assert not torch.allclose(first, found["hidden"])


def test_second_order_of_a_large_batch_is_that_of_its_parts() -> None:
    captured, deps = perceptron()
    x, y = labelled(captured, 20)
    options = {"form": "second_order", "curvature": "hessian", "probes": None}
    found = score(captured, deps, "taylor2019", [(x, y)], **options)["hidden"]
    space = GateSpace(captured, deps, "consumers")
    first, second = space.hessian_diagonal(F.cross_entropy(space.model(x), y))
    torch.testing.assert_close(found, (0.5 * second["hidden"] - first["hidden"]).detach() ** 2)


def test_behind_relu_the_gauss_newton_diagonal_is_that_of_the_hessian() -> None:
    captured, deps = network("depthwise")  # every unit is read once
    data = [labelled(captured, 6)]
    options = {"form": "second_order", "probes": None}
    exact = score(captured, deps, "taylor2019", data, curvature="hessian", **options)
    found = score(captured, deps, "taylor2019", data, curvature="gauss_newton", **options)
    for name in exact:
        torch.testing.assert_close(found[name], exact[name])
    # Read twice, in a stage of residual blocks, a unit enters the outputs quadratically.
    captured, deps = network("residual")
    exact = score(captured, deps, "taylor2019", data, curvature="hessian", **options)
    found = score(captured, deps, "taylor2019", data, curvature="gauss_newton", **options)
    torch.testing.assert_close(found["c1.0"], exact["c1.0"])
    assert not torch.allclose(found["stem.0"], exact["stem.0"])


@pytest.mark.parametrize("form", ["gate", "bn", "full_gradient", "second_order"])
def test_rescaling_through_relu_changes_no_score(form: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3), nn.Flatten()
    )
    settle(model)
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[1].weight[1] *= 8.0
        scaled[1].bias[1] *= 8.0
        scaled[4].weight[:, 1] /= 8.0
    found = [
        score(captured, deps, "taylor2019", [labelled(captured)], form=form)["0"]
        for captured, deps in (opened(each, 2, 3, 8, 8) for each in (model, scaled))
    ]
    torch.testing.assert_close(found[0], found[1])


def test_widths_of_hardware_are_worth_the_sum_of_their_members() -> None:
    scores = np.array([5.0, 1.0, 4.0, 2.0, 8.0, 3.0])
    (values,) = Worth.of_scores({"g": scores}, {"g": (2, 4, 6)}).groups.values()
    # Units ascending: 1 2 | 3 4 | 5 8.
    assert np.diff([0.0, *values]).tolist() == [13.0, 7.0, 3.0]


def test_momentum() -> None:
    running = Momentum(0.9, every=2)
    for value in (1.0, 3.0, 10.0, 20.0, 5.0):
        running.add({"g": torch.tensor([value, 1.0])})
    torch.testing.assert_close(
        running.average["g"], torch.tensor([0.9 * 2 + 0.1 * 15, 1.0], dtype=torch.float64)
    )
    torch.testing.assert_close(running.value()["g"][0].item(), 0.9 * 3.3 + 0.1 * 5.0)
    running.keep({"g": torch.tensor([1])})
    assert running.value()["g"].tolist() == pytest.approx([1.0])
    for wrong in ((1.0, 1), (-0.1, 1), (0.5, 0)):
        with pytest.raises(UsageError):
            Momentum(*wrong)
    captured, deps = perceptron()
    data = [labelled(captured, 4, seed=seed) for seed in range(3)]
    each = [score(captured, deps, "taylor2019", [batch])["hidden"] for batch in data]
    found = score(captured, deps, "taylor2019", data, momentum=0.9, every=1)["hidden"]
    torch.testing.assert_close(found, 0.9 * (0.9 * each[0] + 0.1 * each[1]) + 0.1 * each[2])
    # A second call begins anew.
    criterion = get("taylor2019", momentum=0.9, every=1)
    for _ in range(2):
        torch.testing.assert_close(score(captured, deps, criterion, data)["hidden"], found)


@pytest.mark.parametrize("form", ["consumers", "gate", "mass"])
def test_snip_sensitivities_sum_to_one_and_dead_units_have_none(form: str) -> None:
    captured, deps = network("residual")
    with torch.no_grad():
        for name in ("a1.1.weight", "a1.1.bias"):
            captured.graph.get_parameter(name)[2] = 0.0
        # Neither read nor made: no weight is sensitive.
        captured.graph.get_parameter("a2.0.weight")[:, 2] = 0.0
    found = score(captured, deps, "snip", [labelled(captured), labelled(captured, 3, seed=1)], form=form)
    assert sum(float(value.sum()) for value in found.values()) == pytest.approx(1.0)
    assert found["a1.0"][2] == 0 and (found["a1.0"] > 0).sum() >= 4


def test_snip_is_the_gradient_of_a_mask_and_mass_counts_every_weight() -> None:
    captured, deps = perceptron(5, activation="relu", bias=False)
    x, y = labelled(captured, 6)
    model = copy.deepcopy(captured.model)
    F.cross_entropy(model(x), y).backward()
    made = model.hidden.weight * model.hidden.weight.grad
    read = model.head.weight * model.head.weight.grad
    # Incoming and outgoing weights of a unit have the same signed sum where only ReLU lies between.
    torch.testing.assert_close(made.sum(1), read.sum(0))
    signed = made.sum(1).detach().abs()
    torch.testing.assert_close(score(captured, deps, "snip", [(x, y)])["hidden"], signed / signed.sum())
    mass = (made.abs().sum(1) + read.abs().sum(0)).detach()
    torch.testing.assert_close(
        score(captured, deps, "snip", [(x, y)], form="mass")["hidden"], mass / mass.sum()
    )


BAD = [
    ("taylor2017", {}),
    ("taylor2017", {"variant": "elementwise"}),
    ("snip", {}),
    ("snip", {"form": "mass"}),
]
BAD += [("taylor2019", {"form": form}) for form in ("gate", "weight", "full_gradient", "second_order")]


@pytest.mark.parametrize(("name", "options"), BAD)
def test_bad_data_is_refused_and_one_example_is_enough(name: str, options: dict[str, str]) -> None:
    captured, deps = network("residual")
    x, y = labelled(captured, 1)
    found = score(captured, deps, name, [(x, y)], **options)
    assert all(bool(value.any()) for value in found.values())
    cases = [
        ([], "is empty"),
        ([(x * float("nan"), y)], "nan"),
        ([x], "needs labels"),
        (None, "needs labelled data"),
    ]
    for data, message in cases:
        with pytest.raises(CriterionError, match=message):
            score(captured, deps, name, data, **options)
    with pytest.raises(CriterionError, match="depends on no channel"):
        score(captured, deps, name, [x], loss=lambda outputs, _: outputs.detach().sum(), **options)
    gone = [replace(g, taps=(), members=(), readings=()) for g in deps.groups]
    with pytest.raises(CriterionError, match=r"has no tensor|nothing to take"):
        score(captured, replace(deps, groups=tuple(gone)), name, [(x, y)], **options)


def test_transformers_are_scored_by_every_form() -> None:
    captured, deps = network("tokens")
    data = [split_batch(labelled(captured, 3))]
    forms = [("taylor2019", {"form": form}) for form in ("consumers", "gate", "weight", "second_order")]
    forms += [
        ("taylor2019", {"form": "full_gradient", "at": "gate"}),
        ("taylor2017", {}),
        ("snip", {"form": "mass"}),
    ]
    for name, options in itertools.chain(forms, [("taylor2017", {"variant": "elementwise"})]):
        found = score(captured, deps, name, data, **options)
        assert all(bool((value > 0).all()) for value in found.values()), (name, options)
