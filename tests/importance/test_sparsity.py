"""The sparsity index against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwprune.errors import UsageError
from hwprune.importance import get, score
from tests.importance.nets import analysed, convolution, transformer
from tests.nets import Concat, settle


def _scores(rows: list[list[float]], **parameters: float) -> torch.Tensor:
    model = nn.Sequential(convolution(rows), convolution([[1.0] * len(rows)]))
    return score(*analysed(model, torch.randn(1, len(rows[0]), 4, 4)), "regularized_sparsity", **parameters)[
        "0"
    ]


ROWS = [[0.0, 0.0, 0.0, 0.0], [4.0, 0.0, 0.0, 0.0], [1.0, -1.0, 1.0, -1.0], [0.3, -2.0, 2.0, 0.1]]


def test_a_filter_of_zeros_is_first_to_go_and_counts_are_right() -> None:
    weight = torch.tensor(ROWS, dtype=torch.float64)
    threshold = 0.5 * weight.std(correction=0)
    assert 0.3 < threshold < 1.0
    energy = torch.tensor([0.0, 16, 4, 8.1], dtype=torch.float64) / 16
    shares = torch.tensor([0.0, 0.25, 1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(_scores(ROWS), shares + 0.1 * energy, rtol=1e-6, atol=0)
    # Without the L2 term the share of entries above the threshold is left.
    torch.testing.assert_close(_scores(ROWS, l2=0.0), shares)
    smooth = _scores(ROWS, l2=0.0, smooth=True)
    torch.testing.assert_close(
        smooth, 1.0 - torch.exp(-weight.abs() / threshold).mean(1), rtol=1e-6, atol=1e-12
    )
    assert smooth[0] == 0.0


def test_scaling_the_layer_changes_nothing() -> None:
    scaled = [[17.0 * w for w in row] for row in ROWS]
    for parameters in ({}, {"smooth": True}, {"kappa": 1.0, "l2": 1.0}):
        torch.testing.assert_close(_scores(scaled, **parameters), _scores(ROWS, **parameters))


def test_a_larger_weight_never_lowers_the_index() -> None:
    """With threshold and maximum held: the weight moves its value with another of its filter's."""
    rows = torch.tensor(ROWS, dtype=torch.float64)
    criterion = get("regularized_sparsity")
    threshold, largest = 0.5 * rows.std(correction=0), 16.0

    def index(row: torch.Tensor) -> float:
        small = (row.abs() < threshold).double().mean()
        return float(1.0 - small + criterion.l2 * (row**2).sum() / largest)  # type: ignore[attr-defined]

    torch.testing.assert_close(_scores(ROWS)[3].item(), index(rows[3]), rtol=1e-6, atol=0)
    values = [index(torch.tensor([w, -2.0, 2.0, 0.1], dtype=torch.float64)) for w in torch.linspace(0, 3, 31)]
    assert values == sorted(values) and values[-1] > values[0]


def test_producers_of_a_part_speak_for_their_part() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = convolution([[1.0, 0.0], [0.0, 0.0]])
            self.b = convolution([[1.0, 1.0], [1.0, 0.0]])
            self.c = convolution([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
            self.out = convolution([[1.0, 1.0, 1.0, 1.0]])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.cat([self.a(x), self.b(x)], 1) + self.c(x))

    captured, deps = analysed(Sum(), torch.randn(1, 2, 4, 4))
    found = score(captured, deps, "regularized_sparsity", l2=0.0)
    # a: 0.5, 0; b: 1, 0.5; c: 1, 0 and 1, 1.
    assert [value.tolist() for value in found.values()] == [[0.75, 0.0], [1.0, 0.75]]


def test_on_concatenations_and_transformers() -> None:
    for captured, deps in (analysed(settle(Concat())), transformer()):
        for value in score(captured, deps, "regularized_sparsity").values():
            assert bool(((value > 0) & (value <= 1.1)).all())


@pytest.mark.parametrize("parameters", [{"kappa": 0.0}, {"l2": -1.0}, {"kappa": float("nan")}])
def test_wrong_parameters_are_refused(parameters: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="kappa is above 0"):
        get("regularized_sparsity", **parameters)
