"""Matrix products in all their forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hwprune.capture import capture
from hwprune.dependency import analyse
from tests.dependency.exact import examine, settled

TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


class _Pair(nn.Module):
    """Two projections, what ``body`` makes of them, and what comes out."""

    def __init__(self, body: Callable[[Tensor, Tensor], Tensor], widths: tuple[int, int], out: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, widths[0]), nn.Linear(6, widths[1])
        self.head = nn.Linear(out, 3)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(torch.tanh(self.a(x)), torch.tanh(self.b(x))))


@pytest.mark.parametrize(
    ("body", "widths", "out", "expected"),
    [
        (lambda a, b: a @ b.transpose(1, 2), (8, 8), 5, {"a": 8}),
        (lambda a, b: torch.bmm(a, b.transpose(1, 2)), (8, 8), 5, {"a": 8}),
        (lambda a, b: a.transpose(1, 2) @ b, (8, 7), 7, {"b": 7}),
        (lambda a, b: torch.einsum("bnc,bmc->bnm", a, b), (8, 8), 5, {"a": 8}),
        (lambda a, b: torch.einsum("bnc, bnd -> bcd", a, b), (8, 7), 7, {"b": 7}),
        (lambda a, b: torch.einsum("...c,...c->...c", a, b), (8, 8), 8, {"a": 8}),
        (lambda a, b: torch.einsum("...nc,...mc", a, b), (8, 8), 5, {"a": 8}),
        (lambda a, b: a * torch.einsum("bnc,bc->bn", a, b.mean(1))[:, :, None], (8, 8), 8, {"a": 8}),
        (lambda a, b: torch.baddbmm(b, a, a.transpose(1, 2) @ b), (8, 7), 7, {"a": 8, "b": 7}),
        (lambda a, b: torch.cat([a, b @ b.transpose(1, 2)], 2), (8, 7), 13, {"a": 8, "b": 7}),
    ],
    ids=["matmul", "bmm", "outer", "einsum", "einsum_outer", "gate", "dots", "gate_sum", "baddbmm", "self"],
)
def test_products_of_activations(
    body: Callable[[Tensor, Tensor], Tensor], widths: tuple[int, int], out: int, expected: dict[str, int]
) -> None:
    examine(_Pair(body, widths, out), TOKENS, expected)


class _Weights(nn.Module):
    """Parameters as operands: named weights, several channel dimensions, transposed use."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.w1 = nn.Parameter(torch.randn(6, 8))
        self.w2 = nn.Parameter(torch.randn(8, 3))
        self.bias = nn.Parameter(torch.randn(8))
        self.gain = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "matmul":
            return torch.tanh(x @ self.w1 + self.bias) @ self.w2
        if self.form == "addmm":
            return torch.tanh(torch.addmm(self.bias, x[:, 0], self.w1)) @ self.w2
        if self.form == "einsum":
            return torch.einsum("bnh,ho->bno", torch.tanh(torch.einsum("bnc,ch->bnh", x, self.w1)), self.w2)
        if self.form == "computed":
            return torch.tanh(x @ self.w1 + self.bias) @ (self.w2 * self.gain[:, None])
        return torch.tanh(torch.tanh(x @ self.w1) @ self.w1.t()) @ self.w1 @ self.w2


@pytest.mark.parametrize("form", ["matmul", "addmm", "einsum", "computed", "transposed"])
def test_products_with_parameters(form: str) -> None:
    _, deps = examine(_Weights(form), TOKENS, {"w1": 8})
    if form in ("matmul", "addmm", "einsum"):
        assert deps.group("w1").readings == ()


class _HeadsInWeights(nn.Module):
    """Weights of one dimension per head and one per position within a head: both are groups."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Parameter(torch.randn(3, 6, 4)), nn.Parameter(torch.randn(3, 6, 4))
        self.v, self.out = nn.Parameter(torch.randn(3, 6, 5)), nn.Parameter(torch.randn(3, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bnc,hcd->bhnd", x, w) for w in (self.q, self.k, self.v))
        scores = torch.softmax(torch.einsum("bhnd,bhmd->bhnm", q, k) * 0.5, -1)
        return torch.einsum("bhnd,hdo->bno", torch.einsum("bhnm,bhmd->bhnd", scores, v), self.out)


def test_heads_and_dimensions_of_heads_are_separate_groups() -> None:
    _, deps = examine(_HeadsInWeights(), TOKENS, {"q": 3, "q#2": 4, "v": 5})
    assert {(m.param, m.dim) for m in deps.group("q").members} == {(n, 0) for n in ("q", "k", "v", "out")}
    assert {(m.param, m.dim) for m in deps.group("q#2").members} == {("q", 2), ("k", 2)}
    assert deps.group("q").taps[-1].node == "einsum_4"


def test_bilinear_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 5)
            self.mix, self.head = nn.Bilinear(4, 5, 7), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mix(self.a(x), self.b(x)))

    examine(Net(), TOKENS, {"a": 4, "b": 5, "mix": 7})


def test_diagonals_are_declined() -> None:
    model = _Pair(lambda a, b: torch.einsum("bii->bi", a.transpose(1, 2) @ b), (8, 8), 8)
    deps = analyse(capture(settled(model), TOKENS.double()))
    assert deps.groups == ()
    assert any("it takes a diagonal" in line.reason for line in deps.ledger)
