"""Ranks of gradient matrices, and the order of units that they give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwprune.capture.captured import Captured
from hwprune.dependency import Dependencies
from hwprune.errors import BudgetError, CriterionError, UsageError
from hwprune.importance import get, gradient_redundancy, score
from hwprune.importance.allocation import Floors
from hwprune.importance.redundancy import SHARES, Redundancy, allocation, floors
from tests.importance.cases import labelled, network, perceptron


def _made(change: str) -> tuple[Captured, Dependencies]:
    """A perceptron of five hidden units that has one of the singularities."""
    captured, deps = perceptron(5, activation="tanh" if change != "linear" else "relu")
    w, b = (captured.graph.get_parameter(f"hidden.{name}") for name in ("weight", "bias"))
    v = captured.graph.get_parameter("head.weight")
    with torch.no_grad():
        if change == "elimination":
            v[:, 2] = 0.0
        if change in ("overlap", "incoming"):
            w[3], b[3] = w[1], b[1]
        if change == "overlap":
            v[:, 3] = 2.0 * v[:, 1]
        if change == "linear":
            b += 100.0  # every unit is active on every input
            w[4], b[4] = w[0] + w[1], b[0] + b[1]
            v[:, 4] = v[:, 0]
            v[:, 1] = v[:, 0]
    return captured, deps


@pytest.mark.parametrize(
    ("change", "rank"), [("", 5), ("elimination", 4), ("overlap", 4), ("linear", 4), ("incoming", 5)]
)
def test_ranks_of_singular_networks(change: str, rank: int) -> None:
    captured, deps = _made(change)
    # Losses that are not saturated, so that every example says something.
    data = [(labelled(captured, 40)[0], None)]

    def loss(outputs: torch.Tensor, _: object) -> torch.Tensor:
        return (outputs**2).sum(1).mean() if change == "linear" else outputs.sin().sum(1).mean()

    found = gradient_redundancy(captured, deps, data, loss=loss)["hidden"]
    assert found.rank(1e-9) == rank
    order = found.order().tolist()
    assert sorted(order) == [0, 1, 2, 3, 4]
    if change == "elimination":
        assert order[-1] == 2
    if change == "overlap":
        assert order[-1] == 1  # half of the other
    scores = score(captured, deps, "gradient_matrix", data, loss=loss)["hidden"]
    assert scores.argsort(descending=True).tolist() == order


def test_rank_is_at_most_the_number_of_examples_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    captured, deps = network("residual")
    few = [labelled(captured, 3)]
    found = gradient_redundancy(captured, deps, few, capped=True)
    assert all(each.rank(1e-12) <= 3 and not each.enough for each in found.values())
    with pytest.raises(
        CriterionError, match=r"3 examples are too few for the gradient matrix of c2\.0 with 16 units"
    ):
        gradient_redundancy(captured, deps, few)
    scores = score(captured, deps, "gradient_matrix", few)
    assert "fewer than two examples per unit in stem.0" in caplog.text
    # Those that cannot be told apart follow by their mean squared derivative.
    matrix = found["c2.0"].matrix
    rest = scores["c2.0"].argsort(descending=True)[3:].tolist()
    strength = (matrix[rest] ** 2).mean(1)
    assert (np.diff(strength) <= 1e-18).all()
    with pytest.raises(CriterionError, match="fewer than two examples"):
        score(captured, deps, "gradient_matrix", few, strict=True)


def test_energies() -> None:
    found = {
        "g": Redundancy.of(np.diag([1.0, 3.0, 0.0, 2.0])[:, [0, 1, 3]]),
        "h": Redundancy.of(np.zeros((2, 3))),
    }
    g, h = found["g"], found["h"]
    assert g.singular.tolist() == pytest.approx([3.0, 2.0, 1.0])
    assert [g.effective(share) for share in (9 / 14, 0.65, 13 / 14, 0.95, 1.0)] == [1, 2, 2, 3, 3]
    assert [g.tail_energy(width) for width in (0, 1, 2, 3, 4)] == pytest.approx([14 / 6, 5 / 6, 1 / 6, 0, 0])
    assert (g.rank(0.5), g.rank(0.1), h.rank(), h.effective(), h.tail_energy(0)) == (2, 3, 0, 0, 0.0)
    assert g.order().tolist() == [1, 3, 0, 2]
    widths, prunable = floors(found, 13 / 14)
    assert widths == {"g": 2, "h": 1} and prunable == pytest.approx(0.5)
    # Floors are lowered until they fit, and it is said how far.
    said = allocation(found)
    assert [each.share for each in said.floors] == list(SHARES)
    assert said.fitting(lambda w: w["g"] <= 2) == Floors(0.9, {"g": 2, "h": 1})
    with pytest.raises(BudgetError, match="50% of the energy leave nothing within the budget"):
        said.fitting(lambda _: False)
    # What widths are worth is what is not lost in their tails.
    for width in range(5):
        kept = float(said.strengths["g"][:width].sum())
        assert kept == pytest.approx(g.tail_energy(0) - g.tail_energy(width))
    assert said.strengths["h"].tolist() == [0.0, 0.0]
    with pytest.raises(UsageError):
        floors(found, 0.0)


def test_the_criterion_has_its_say_on_widths_only_if_asked() -> None:
    captured, deps = _made("overlap")
    data = [(labelled(captured, 40)[0], None)]

    def loss(outputs: torch.Tensor, _: object) -> torch.Tensor:
        return outputs.sin().sum(1).mean()

    silent = get("gradient_matrix")
    score(captured, deps, silent, data, loss=loss)
    assert not silent.gives_widths and silent.allocation is None
    # Two of the five units are one direction: the whole energy is in four.
    told = get("gradient_matrix:floors=1")
    assert told.gives_widths
    scores = score(captured, deps, told, data, loss=loss)
    assert told.allocation is not None
    (only,) = told.allocation.floors
    assert (only.share, dict(only.widths)) == (1.0, {"hidden": 4})
    assert torch.equal(scores["hidden"], score(captured, deps, silent, data, loss=loss)["hidden"])
    with pytest.raises(CriterionError, match="fewer than two examples per unit in hidden"):
        score(captured, deps, told, [(data[0][0][:9], None)], loss=loss)
