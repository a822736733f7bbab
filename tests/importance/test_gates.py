"""Gates, derivatives of them, and what examples contribute, on convolutions and transformers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwprune.importance import true_loss_change, with_gates
from hwprune.importance.batches import split_batch
from hwprune.importance.examples import PerExample, split
from hwprune.importance.gatespace import GateSpace, twice_differentiable
from hwprune.importance.observe import with_observers
from hwprune.importance.places import At, places_of
from hwprune.surgery.masked import masked_original
from tests.importance.cases import labelled, network, opened
from tests.nets import NETS

ALL = [*NETS, "tokens", "tokens_first"]


@pytest.mark.parametrize("name", ALL)
def test_a_gate_of_zero_at_the_consumers_is_the_masked_original(name: str) -> None:
    captured, deps = network(name)
    gated, gates = with_gates(captured, deps, "consumers")
    x, _ = labelled(captured)
    torch.testing.assert_close(gated(x), captured.graph(x), rtol=1e-12, atol=1e-12)
    for group in deps.groups:
        keep = {g.name: list(range(g.size)) for g in deps.groups}
        keep[group.name].remove(1)
        with torch.no_grad():
            gates[group.name][1] = 0.0
            torch.testing.assert_close(gated(x), masked_original(captured, deps, keep)(x))
            gates[group.name][1] = 1.0


@pytest.mark.parametrize("at", ["consumers", "gate", "producers"])
@pytest.mark.parametrize("name", ["residual", "grouped", "tokens", "tokens_first"])
def test_derivatives_of_gates_are_finite_differences(name: str, at: At) -> None:
    captured, deps = network(name)
    space = GateSpace(captured, deps, at)
    x, y = labelled(captured)

    def gradient() -> torch.Tensor:
        found = space.gradient(F.cross_entropy(space.model(x), y))
        return torch.cat([value.detach() for value in found.values()])

    with twice_differentiable():
        first, product = space.hessian_product(F.cross_entropy(space.model(x), y))
    torch.testing.assert_close(torch.cat(list(first.values())), gradient())
    step, values = 1e-6, list(space.gates.values())
    with torch.no_grad():
        for value in values:
            value += step
    above = gradient()
    with torch.no_grad():
        for value in values:
            value -= 2 * step
    expected = (above - gradient()) / (2 * step)
    torch.testing.assert_close(torch.cat(list(product.values())), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["residual", "concat", "tokens", "tokens_first"])
def test_derivatives_per_example_are_those_of_the_examples_alone(name: str) -> None:
    captured, deps = network(name)
    space = GateSpace(captured, deps, "consumers")
    examples = PerExample(space)
    batch = split_batch(labelled(captured, 5))
    (found,) = examples.derive(
        batch, lambda part: [F.cross_entropy(part.run(space.model), part.target) * part.size]
    )
    # torch's own attention puts tokens before the batch: there the first dimension tells nothing.
    assert examples.together(batch) != name.startswith("tokens")
    for number, one in enumerate(split(batch, 1)):
        alone = space.gradient(F.cross_entropy(one.run(space.model), one.target))
        for group in deps.groups:
            torch.testing.assert_close(found[group.name][number], alone[group.name])


class _ClassToken(nn.Module):
    """Tokens before the batch, of which only the first is read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = torch.tanh(self.first(x.transpose(0, 1)))
        return self.head(tokens[0])


def test_a_layout_that_looks_like_examples_first_is_told_apart() -> None:
    captured, deps = opened(_ClassToken(), 2, 5, 6)
    space = GateSpace(captured, deps, "gate")
    examples = PerExample(space)
    # As many tokens as examples: the first row of the gates touches the first example only.
    batch = split_batch(labelled(captured, 5))
    (found,) = examples.derive(batch, lambda part: [part.run(space.model).sin().sum()])
    assert not examples.together(batch)
    for number, one in enumerate(split(batch, 1)):
        alone = space.gradient(one.run(space.model).sin().sum())
        torch.testing.assert_close(found["first"][number], alone["first"])


def test_the_diagonal_of_the_hessian_is_exact_or_right_on_average() -> None:
    captured, deps = network("residual")
    space = GateSpace(captured, deps, "consumers")
    x, y = labelled(captured)
    _, exact = space.hessian_diagonal(F.cross_entropy(space.model(x), y))
    group = deps.groups[1].name
    unit = torch.zeros_like(space.gates[group])
    unit[2] = 1.0
    direction = {name: torch.zeros_like(value) for name, value in space.gates.items()} | {group: unit}
    _, row = space.hessian_product(F.cross_entropy(space.model(x), y), direction)
    torch.testing.assert_close(exact[group][2], row[group][2])
    generator = torch.Generator().manual_seed(0)
    _, guess = space.hessian_diagonal(F.cross_entropy(space.model(x), y), probes=100, generator=generator)
    error = torch.cat([guess[n] - exact[n] for n in exact]).norm() / torch.cat(list(exact.values())).norm()
    assert error < 0.6


def test_observers_see_values_and_gradients_of_the_readers_only() -> None:
    captured, deps = network("residual")
    x, y = labelled(captured)
    sums = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in deps.groups}

    def seen(places, value, gradient):  # type: ignore[no-untyped-def]
        for place in places:
            sums[place.group].index_add_(
                0, place.units, (value * gradient).movedim(place.dim, 0).flatten(1).sum(1)
            )

    model = with_observers(captured, places_of(captured, deps, "consumers"), seen)
    F.cross_entropy(model(x), y).backward()
    space = GateSpace(captured, deps, "consumers")
    for name, value in space.gradient(F.cross_entropy(space.model(x), y)).items():
        torch.testing.assert_close(sums[name], value)


@pytest.mark.parametrize("name", ["residual", "depthwise", "tokens", "tokens_first"])
def test_the_oracle_is_the_loss_of_the_masked_original(name: str) -> None:
    captured, deps = network(name)
    data = [labelled(captured, 4), labelled(captured, 3, seed=1)]
    found = true_loss_change(captured, deps, data, rows=16)

    @torch.no_grad()
    def mean(model) -> float:  # type: ignore[no-untyped-def]
        return sum(len(y) * float(F.cross_entropy(model(x), y)) for x, y in data) / 7

    for group in (deps.groups[0], deps.groups[-1]):
        keep = {g.name: list(range(g.size)) for g in deps.groups}
        keep[group.name].remove(1)
        expected = mean(masked_original(captured, deps, keep)) - mean(captured.graph)
        assert found[group.name][1].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    only = true_loss_change(captured, deps, data, groups=[deps.groups[0].name], batches=1, rows=1)
    again = true_loss_change(captured, deps, data[:1])
    torch.testing.assert_close(only[deps.groups[0].name], again[deps.groups[0].name])
