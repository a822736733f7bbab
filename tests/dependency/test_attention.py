"""Attention: heads found from the graph, whatever way it is written."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.importance.gates import with_gates
from hwprune.surgery import cut_graph, masked_original
from tests.dependency.exact import examine, settled

TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
WIDTH, HEADS, HEAD = 12, 3, 4


class _Fused(nn.Module):
    """timm's way: one projection for queries, keys and values, with or without the operator."""

    def __init__(self, operator: bool) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3 * HEADS * HEAD)
        self.proj, self.head = nn.Linear(HEADS * HEAD, WIDTH), nn.Linear(WIDTH, 2)
        self.norm = nn.LayerNorm(WIDTH)
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, n, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.operator:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax((q * HEAD**-0.5) @ k.transpose(-2, -1), -1) @ v
        return self.head(x + self.proj(y.transpose(1, 2).reshape(b, n, HEADS * HEAD)))


@pytest.mark.parametrize("operator", [True, False])
def test_fused_projection(operator: bool) -> None:
    _, deps = examine(_Fused(operator), TOKENS, {"embed": WIDTH, "qkv": HEADS})
    heads = deps.group("qkv")
    assert heads.channels_per_unit == 3 * HEAD
    assert {(m.param, m.dim, m.role) for m in heads.members} == {
        ("qkv.weight", 0, "producer"),
        ("qkv.bias", 0, "channelwise"),
        ("proj.weight", 1, "consumer"),
    }
    assert heads.taps[-1].node == ("scaled_dot_product_attention" if operator else "matmul_1")


def test_heads_against_an_original_without_them() -> None:
    model = settled(_Fused(operator=True))
    captured = capture(model, TOKENS.double())
    cut = cut_graph(captured, analyse(captured), {"qkv": [0, 2]})
    model.proj.weight.data[:, HEAD : 2 * HEAD] = 0
    torch.testing.assert_close(cut(TOKENS.double()), model(TOKENS.double()))


@pytest.mark.parametrize("operator", [True, False])
def test_a_gate_of_zero_on_the_tap_of_a_head_removes_it(operator: bool) -> None:
    captured = capture(settled(_Fused(operator)), TOKENS.double())
    deps = analyse(captured)
    gated, gates = with_gates(captured, deps)
    torch.testing.assert_close(gated(TOKENS.double()), captured.graph(TOKENS.double()))
    gates["qkv"].data[1] = 0
    masked = masked_original(captured, deps, {"qkv": [0, 2]})
    torch.testing.assert_close(gated(TOKENS.double()), masked(TOKENS.double()))


class _Split(nn.Module):
    """Separate projections, as in language models, with key and value heads that are shared."""

    def __init__(self, kv_heads: int, **options: object) -> None:
        super().__init__()
        self.kv = kv_heads
        self.q, self.o = nn.Linear(6, 4 * HEAD, bias=False), nn.Linear(4 * HEAD, 6)
        self.k, self.v = nn.Linear(6, kv_heads * HEAD), nn.Linear(6, kv_heads * HEAD)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, HEAD).transpose(1, 2)
        k, v = (f(x).view(b, n, self.kv, HEAD).transpose(1, 2) for f in (self.k, self.v))
        y = functional.scaled_dot_product_attention(q, k, v, **self.options)  # type: ignore[arg-type]
        return self.o(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("kv_heads", "options", "expected"),
    [
        (4, {}, {"q": 4}),
        (4, {"is_causal": True}, {"q": 4}),
        (4, {"scale": 0.7, "dropout_p": 0.0}, {"q": 4}),
        (4, {"attn_mask": torch.randn(5, 5)}, {"q": 4}),
        (4, {"attn_mask": torch.randn(1, 4, 5, 5) > 0}, {"q": 4}),
        (2, {"enable_gqa": True}, {"q": 2}),
        (1, {"enable_gqa": True}, {"q": 4}),
        (1, {}, {"q": 4}),
    ],
    ids=["plain", "causal", "scale", "mask", "mask_per_head", "grouped", "one_grouped", "one_broadcast"],
)
def test_forms_of_the_operator(kv_heads: int, options: dict[str, object], expected: dict[str, int]) -> None:
    options = {
        k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in options.items()
    }
    _, deps = examine(_Split(kv_heads, **options), TOKENS, expected)
    if kv_heads == 2:
        assert deps.group("q").channels_per_unit == 2 * HEAD


class _Repeated(_Split):
    """Shared key and value heads that are repeated before the product."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, HEAD).transpose(1, 2)
        k, v = (f(x).view(b, n, 2, HEAD).transpose(1, 2).repeat_interleave(2, 1) for f in (self.k, self.v))
        y = torch.softmax(q @ k.transpose(2, 3) / 2, -1) @ v
        return self.o(y.transpose(1, 2).flatten(2))


def test_repeated_key_heads() -> None:
    examine(_Repeated(2), TOKENS, {"q": 2})


class _OneHead(nn.Module):
    """Without heads the dimension of queries and keys and that of values are groups."""

    def __init__(self, explicit: float | None) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 7)
        self.o, self.explicit = nn.Linear(7, 3), explicit

    def forward(self, x: Tensor) -> Tensor:
        y = functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), scale=self.explicit)
        return self.o(y)


@pytest.mark.parametrize("explicit", [None, 0.3])
def test_the_scale_of_the_original_stays(explicit: float | None) -> None:
    captured, deps = examine(_OneHead(explicit), TOKENS, {"q": 8, "v": 7})
    cut = cut_graph(captured, deps, {"q": [1, 4]})
    (node,) = (n for n in cut.graph.nodes if "scaled_dot" in str(n.target))
    assert node.kwargs["scale"] == pytest.approx(explicit or 8**-0.5)


class _NonLocal(nn.Module):
    """Attention over positions of an image, by matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.theta, self.phi, self.g = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(3, 5, 1)
        self.out = nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (f(x).flatten(2) for f in (self.theta, self.phi, self.g))
        scores = torch.softmax(torch.bmm(theta.transpose(1, 2), phi), -1)
        return x + self.out(torch.bmm(g, scores.transpose(1, 2)).view(2, 5, 4, 4))


def test_non_local_block() -> None:
    examine(_NonLocal(), torch.randn(2, 3, 4, 4), {"theta": 6, "g": 5})


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention_module(weights: bool, batch_first: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, WIDTH)
            self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)
            self.head = nn.Linear(WIDTH, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head(x + self.attention(x, x, x, need_weights=weights)[0])

    examine(Net(), TOKENS, {"embed": WIDTH, "attention.in_proj_weight": HEADS})


def test_cross_attention_module() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, WIDTH), nn.Linear(6, WIDTH)
            self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
            self.head = nn.Linear(WIDTH, 2)

        def forward(self, x: Tensor) -> Tensor:
            memory = torch.tanh(self.b(x))
            return self.head(self.attention(torch.tanh(self.a(x)), memory, memory)[0])

    # Queries and memory share the input side of one weight, so their widths are one group.
    expected = {"b": WIDTH, "attention": HEADS, "attention.out_proj": WIDTH}
    examine(Net(), TOKENS, expected)


def test_encoder_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 2)
            self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(self.embed(x)))

    examine(Net(), TOKENS, {"embed": WIDTH, "layer.self_attn.in_proj_weight": HEADS, "layer.linear1": 16})
