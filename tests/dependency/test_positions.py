"""Operators that move, split and repeat channels: exact, or declined with a reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwprune.dependency.rules import RULES
from hwprune.surgery import cut_graph
from tests.dependency.oracle import Body, check, ledger, sizes

C = torch.cat
EXACT: dict[str, tuple[Callable[[Tensor], Tensor], int, dict[str, int]]] = {
    "split": (lambda x: C(x.split(4, 1)[::-1], 1), 8, {"one": 4, "one#2": 4}),
    "split of unequal sizes": (lambda x: C(x.split([5, 1, 2], 1)[::-1], 1), 8, {"one": 5, "one#3": 2}),
    "chunk and gate": (lambda x: torch.mul(*x.chunk(2, 1)).sigmoid(), 4, {"one": 4}),
    "chunk": (lambda x: x.chunk(2, 1)[1] - 1, 4, {"one": 4, "one#2": 4}),
    "tensor_split": (lambda x: C(x.tensor_split((3, 6), 1)[1:], 1), 5, {"one": 3, "one#2": 3, "one#3": 2}),
    "split of space": (lambda x: C(x.split(4, 2), 1), 16, {"one": 8}),
    "glu": (lambda x: functional.glu(x, 1), 4, {"one": 4}),
    "unbind of space": (lambda x: x.unbind(2)[1].unsqueeze(2), 8, {"one": 8}),
    "unbind of halves": (lambda x: torch.mul(*x.unflatten(1, (2, 4)).unbind(1)), 4, {"one": 4}),
    "select of halves": (lambda x: x.view(-1, 2, 4, 8, 8)[:, 1] + 1, 4, {"one": 4}),
    "halves inside": (lambda x: x.view(-1, 4, 2, 8, 8)[:, :, 0] + 1, 4, {"one": 4}),
    "slice": (lambda x: x[:, 2:6], 4, {"one": 2, "one#2": 4, "one#3": 2}),
    "slice to the end": (lambda x: x[:, 3:].relu() + 1, 5, {"one": 3, "one#2": 5}),
    "slice from the end": (lambda x: x[:, :-3], 5, {"one": 5, "one#2": 3}),
    "every other channel": (lambda x: x[:, 1::2], 4, {"one": 4}),
    "narrow": (lambda x: x.narrow(1, 2, 4), 4, {"one": 2, "one#2": 4, "one#3": 2}),
    "parts that are everything": (
        lambda x: x.narrow(1, 0, 8) + x[:, -8:] + x[:, :8] + x.split([8], 1)[0] + x.split(9, 1)[0],
        8,
        {"one": 8},
    ),
    "overlapping slices": (lambda x: C([x[:, :5], x[:, 3:]], 1), 10, {"one": 3, "one#2": 2, "one#3": 3}),
    "sum of slices": (lambda x: x[:, :4] + x[:, 4:], 4, {"one": 4}),
    "stack in front": (lambda x: torch.stack([x, x + 1], 1).flatten(1, 2), 16, {"one": 8}),
    "stack behind": (lambda x: torch.stack([x, x + 1], 2).flatten(1, 2), 16, {"one": 8}),
    "stack and sum": (lambda x: torch.stack([x, x.relu()]).sum(0), 8, {"one": 8}),
    "repeat": (lambda x: x.repeat(1, 3, 1, 1), 24, {"one": 8}),
    "tile": (lambda x: x.tile((2, 1, 1)), 16, {"one": 8}),
    "repeat of one position": (lambda x: x.mean((2, 3), True).repeat(1, 1, 8, 8) + x, 8, {"one": 8}),
    "repeat_interleave": (lambda x: x.repeat_interleave(3, 1), 24, {"one": 8}),
    "movedim": (lambda x: x.movedim(1, -1).relu().movedim(-1, 1), 8, {"one": 8}),
    "flip of space": (lambda x: x.flip(2).roll(1, 3), 8, {"one": 8}),
    "cumsum of space": (lambda x: x.cumsum(3), 8, {"one": 8}),
    "index of space": (lambda x: x[:, :, torch.tensor([1, 1, 5])], 8, {"one": 8}),
    "expand_as": (lambda x: x.amax((2, 3), True).expand_as(x) * x, 8, {"one": 8}),
    "reshape_as": (lambda x: (x.flatten(2) * 2).reshape_as(x) + x, 8, {"one": 8}),
    "concat twice": (lambda x: C([x, x.relu(), x], 1), 24, {"one": 8}),
    "channel shuffle": (
        lambda x: x.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8),
        8,
        {"one": 4},
    ),
    "channel shuffle of many groups": (
        lambda x: x.view(-1, 4, 2, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8),
        8,
        {"one": 4},
    ),
    "channel_shuffle": (lambda x: torch.channel_shuffle(x, 2), 8, {"one": 4}),
    "pixel_shuffle": (lambda x: functional.pixel_shuffle(x, 2), 2, {"one": 2}),
    "pixel_unshuffle": (lambda x: functional.pixel_unshuffle(x, 2), 32, {"one": 8}),
    "depth to space": (
        lambda x: x.view(-1, 2, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3).reshape(-1, 2, 16, 16),
        2,
        {"one": 2},
    ),
    "depth to space, channels last": (
        lambda x: x.view(-1, 2, 2, 2, 8, 8).permute(0, 3, 4, 1, 5, 2).reshape(-1, 2, 16, 16),
        2,
        {"one": 2},
    ),
    "space to depth": (
        lambda x: x.view(-1, 8, 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(-1, 32, 4, 4),
        32,
        {"one": 8},
    ),
    "space to depth, channels last": (
        lambda x: x.view(-1, 8, 4, 2, 4, 2).permute(0, 3, 5, 1, 2, 4).reshape(-1, 32, 4, 4),
        32,
        {"one": 8},
    ),
    "focus": (
        lambda x: C([x[..., a::2, b::2] for a in (0, 1) for b in (0, 1)], 1),
        32,
        {"one": 8},
    ),
    "windows": (
        lambda x: _reverse(_windows(x.permute(0, 2, 3, 1)) * 2).permute(0, 3, 1, 2),
        8,
        {"one": 8},
    ),
    "channels with the batch": (
        lambda x: x.reshape(2 * 8 * 4, 2, 4, 2).transpose(1, 2).reshape(2, 8, 4, 16),
        8,
        {"one": 8},
    ),
    "padded channels": (lambda x: functional.pad(x, (0, 0, 0, 0, 1, 2), value=0.5), 11, {"one": 8}),
    "zeros appended": (lambda x: C([x, x.new_zeros(2, 2, 8, 8)], 1), 10, {"one": 8}),
    "zeros added": (lambda x: x + torch.zeros(8, 1, 1) + x.new_ones(1, 8, 8, 8), 8, {"one": 8}),
    "where": (lambda x: torch.where(x > 0, x, x * 2 + 1), 8, {"one": 8}),
    "masked_fill": (lambda x: x.masked_fill(x > 0.5, 0.5), 8, {"one": 8}),
    "unfold": (lambda x: functional.unfold(x, 2, stride=2).view(-1, 32, 4, 4), 32, {"one": 8}),
    "fold": (lambda x: functional.fold(x.flatten(2), (9, 9), (2, 2)), 2, {"one": 2}),
    "max": (lambda x: x.max(2, keepdim=True).values, 8, {"one": 8}),
    "greatest of a grid": (lambda x: functional.adaptive_max_pool2d(x, 2), 8, {"one": 8}),
    "variance of space": (lambda x: torch.sub(*torch.var_mean(x, (2, 3), keepdim=True)), 8, {"one": 8}),
    "sampled at a grid": (
        lambda x: functional.grid_sample(x, x.new_zeros(2, 4, 4, 2) + 0.3, align_corners=False),
        8,
        {"one": 8},
    ),
    "filled": (
        lambda x: x.clone().fill_(0.5) + x.type_as(torch.zeros(1)) * torch.full_like(x, 2.0),
        8,
        {"one": 8},
    ),
    "coordinates": (
        lambda x: x + sum(torch.meshgrid(torch.arange(8.0), torch.linspace(0, 1, 8), indexing="ij")),
        8,
        {"one": 8},
    ),
    "indexed twice": (
        lambda x: x[:, :, torch.tensor([[0], [3]]), torch.tensor([1, 2, 5])],
        8,
        {"one": 8},
    ),
    "indexed apart": (
        lambda x: (
            x.permute(2, 1, 3, 0)[torch.tensor([1, 5]), :, torch.tensor([2, 2])]
            .unsqueeze(0)
            .mean(3, True)[0]
            .unsqueeze(-1)
        ),
        8,
        {"one": 8},
    ),
    "split attention": (
        lambda x: (x.view(-1, 2, 4, 8, 8).softmax(1) * x.view(-1, 2, 4, 8, 8)).sum(1),
        4,
        {"one": 4},
    ),
}


def _windows(x: Tensor) -> Tensor:
    x = x.view(-1, 2, 4, 2, 4, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, x.shape[-1])


def _reverse(x: Tensor) -> Tensor:
    x = x.view(-1, 2, 2, 4, 4, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, x.shape[-1])


@pytest.mark.parametrize("name", EXACT)
def test_exact(name: str) -> None:
    body, after, expected = EXACT[name]
    _, deps = check(Body(body, after=after))
    assert sizes(deps) == expected


DECLINED: dict[str, tuple[Callable[[Tensor], Tensor], int, str]] = {
    "flip": (lambda x: x.flip(1), 8, "mixed by aten.flip"),
    "roll": (lambda x: x.roll(1, 1), 8, "mixed by aten.roll"),
    "cumsum": (lambda x: x.cumsum(1), 8, "mixed by aten.cumsum"),
    "select": (lambda x: x[:, 3].unsqueeze(1), 1, "one position is selected by aten.select"),
    "unbind": (lambda x: torch.stack(x.unbind(1)[:2], 1), 2, "taken apart by aten.unbind"),
    "index": (lambda x: x[:, torch.tensor([1, 5, 0])], 3, "indexed by aten.index"),
    "every third": (lambda x: x[:, ::3], 3, "sliced by aten.slice"),
    "positions added": (lambda x: x + torch.arange(8.0).view(8, 1, 1), 8, "tied to a fixed dimension"),
    "reflected": (lambda x: C([x[:, :4], x[:, :4].flip(1)], 1), 8, "mixed by aten.flip"),
    "unfold of channels": (lambda x: x.unfold(1, 4, 4).flatten(2, 4).mean(-1).view(-1, 2, 1, 1), 2, "unfold"),
}


@pytest.mark.parametrize("name", DECLINED)
def test_declined(name: str) -> None:
    body, after, reason = DECLINED[name]
    _, deps = check(Body(body, after=after), seeds=1)
    assert "one" in {line.name for line in deps.ledger}
    assert reason in ledger(deps, "one")


def test_every_rule_is_of_an_operator_that_exists() -> None:
    for name in RULES:
        if name.startswith("aten."):
            packet, overload = name.split(".")[1:]
            assert hasattr(getattr(torch.ops.aten, packet), overload), name


def test_a_unit_on_both_sides_of_a_boundary_stays() -> None:
    # Repeated twice each, then cut in the middle of channel 2.
    _, deps = check(Body(lambda x: C(x.repeat_interleave(2, 1).split([5, 11], 1)[::-1], 1), after=16))
    assert sizes(deps) == {"one": 2, "one#3": 5}
    assert "both sides of a boundary" in ledger(deps, "one")


class _Shuffled(nn.Module):
    """A ShuffleNet stage in small: two units, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.a = nn.Conv2d(8, 8, 1)
        self.b = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in (self.a, self.b):
            left, right = x.chunk(2, dim=1)
            x = torch.cat((left, functional.relu(layer(right))), dim=1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return self.head(x.mean((2, 3)))


def test_shuffled_stage() -> None:
    _, deps = check(_Shuffled())
    assert deps.groups


class _Attention(nn.Module):
    """Heads by hand: fused projection, merged with the batch, as nn.MultiheadAttention does it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 36)
        self.proj = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, 4, 3).permute(2, 0, 3, 1, 4).unbind(0)
        x = (q * k + v).transpose(1, 2).reshape(n, length, 12)
        return self.proj(x)


def test_fused_projection_has_heads_as_units() -> None:
    _, deps = check(_Attention(), torch.randn(2, 5, 6))
    assert sizes(deps) == {"qkv": 4}
    assert deps.group("qkv").channels_per_unit == 9


class _Heads(nn.Module):
    """Heads merged with the batch and parted from it again, query-key-value parted by chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 36)
        self.proj = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = (
            part.view(n, length, 4, 3).transpose(1, 2).reshape(n * 4, length, 3)
            for part in self.qkv(x).chunk(3, -1)
        )
        x = (q * k + v).view(n, 4, length, 3).transpose(1, 2).reshape(n, length, 12)
        return self.proj(x)


def test_heads_merged_with_the_batch() -> None:
    _, deps = check(_Heads(), torch.randn(2, 5, 6))
    assert sizes(deps) == {"qkv": 4}
    assert deps.group("qkv").channels_per_unit == 9


class _GroupedQuery(nn.Module):
    """Two query heads for each of three key heads, of four positions each."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.q, self.k, self.proj = nn.Linear(6, 24), nn.Linear(6, 12), nn.Linear(24, 2)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q = self.q(x).view(n, length, 6, 4).transpose(1, 2)
        k = self.k(x).view(n, length, 3, 4).transpose(1, 2)
        if self.how == "expand":
            k = k[:, :, None].expand(n, 3, 2, length, 4).reshape(n, 6, length, 4)
        else:
            k = k.repeat_interleave(2, dim=1)
        return self.proj((q * k).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("how", ["expand", "repeat_interleave"])
def test_grouped_queries(how: str) -> None:
    _, deps = check(_GroupedQuery(how), torch.randn(2, 5, 6))
    assert sizes(deps) == {"q": 3}
    assert deps.group("q").channels_per_unit == 8


class _Selective(nn.Module):
    """Selective kernels: a softmax over two branches, split off the channels of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 3, padding=1)
        self.squeeze, self.select = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 12, 1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.stack([self.a(x), self.b(x)], dim=1)
        gate = self.select(self.squeeze(x.sum(1).mean((2, 3), keepdim=True)))
        gate = gate.view(-1, 2, 6, 1, 1).softmax(1)
        return self.head((x * gate).sum(1)).mean((2, 3))


def test_selective_kernels() -> None:
    _, deps = check(_Selective())
    assert sizes(deps) == {"a": 6, "squeeze": 4}
    assert deps.group("a").channels_per_unit == 1


class _TwoInputs(nn.Module):
    """Two inputs, two outputs, a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(2, 6, 1)
        self.c, self.d = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.where(y[:, :1] > 0, self.a(x), self.b(y))
        return self.c(z), self.d(torch.maximum(z, z.new_zeros(()))).mean((2, 3))


def test_two_inputs_and_two_outputs() -> None:
    _, deps = check(_TwoInputs(), torch.randn(2, 3, 4, 4), torch.randn(2, 2, 4, 4), module=True)
    assert sizes(deps) == {"a": 6}
    assert {line.name for line in deps.ledger} == {"c", "d"}


def test_constants_of_the_graph_follow_where_the_class_does_not() -> None:
    model = Body(lambda x: C([x.view(2, 8, 64).view(-1, 8, 8, 8).chunk(2, 1)[1], x[:, 4:]], 1))
    captured, deps = check(model, module=False)
    graph = cut_graph(captured, deps, {"one": [0, 2], "one#2": [1, 2, 3]})
    arguments = {str(n.target): n.args[1:] for n in graph.graph.nodes}
    assert arguments["aten.split_with_sizes.default"] == ([2, 3], 1)
    assert arguments["aten.slice.Tensor"][1] == 2


def test_the_class_follows_where_it_reads_its_sizes() -> None:
    def shuffle(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    check(Body(shuffle), module=True)
    check(Body(lambda x: torch.mul(*x.chunk(2, 1)), after=4), module=True)
