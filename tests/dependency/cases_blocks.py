"""Constructions of blocks: gates, norms, attention, windows, several inputs and outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.dependency.case import IMAGE, TOKENS, Net, case, head, stem


@case({"a": 8})
def one_channel_gate() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.c(x * m.g(x).sigmoid())

    return Net(body, a=stem(), g=nn.Conv2d(8, 1, 1), c=head(8))


@case({"a": 8})
def channels_last_layer_norm() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        return m.c(m.n(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    return Net(body, a=stem(), n=nn.LayerNorm(8), c=head(8))


@case({"a": 8})
def instance_norm() -> nn.Module:
    return Net(
        lambda m, x: m.c(m.n(m.a(x))),
        a=stem(),
        n=nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        c=head(8),
    )


@case({"a": 8}, declined={"c": "output of the model"})
def output_as_prunable_layer() -> nn.Module:
    return Net(lambda m, x: m.c(m.a(x)), a=stem(), c=head(8))


@case({"a": 8})
def einsum_gate() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.c(torch.einsum("nchw,nc->nchw", x, m.g(x.mean((2, 3))).sigmoid()))

    return Net(body, a=stem(), g=nn.Linear(8, 8), c=head(8))


@case({"a": 8})
def in_place_operators() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).mul_(0.5)
        y = m.b(x)
        y += x
        return m.c(functional.leaky_relu_(y, 0.1))

    return Net(body, a=stem(), b=nn.Conv2d(8, 8, 1), c=head(8))


def _attention(m: Net, x: Tensor, fused: bool) -> Tensor:
    n, length, width = x.shape
    q, k, v = m.qkv(x).reshape(n, length, 3, 3, width // 3).permute(2, 0, 3, 1, 4).unbind(0)
    if fused:
        mixed = functional.scaled_dot_product_attention(q, k, v)
    else:
        mixed = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
    return m.out(mixed.transpose(1, 2).reshape(n, length, width))


@case({"qkv": 3, "up": 12}, TOKENS)
def fused_qkv_with_attention_operator() -> nn.Module:
    return Net(
        lambda m, x: m.c(m.up(x) + _attention(m, m.up(x), True)),
        up=nn.Linear(12, 12),
        qkv=nn.Linear(12, 36),
        out=nn.Linear(12, 12),
        c=nn.Linear(12, 4),
    )


@case({"qkv": 3, "up": 12}, TOKENS)
def fused_qkv_by_products() -> nn.Module:
    return Net(
        lambda m, x: m.c(m.up(x) + _attention(m, m.up(x), False)),
        up=nn.Linear(12, 12),
        qkv=nn.Linear(12, 36),
        out=nn.Linear(12, 12),
        c=nn.Linear(12, 4),
    )


@case({"a": 8, "b": 6})
def layer_scale() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.c(x + m.s * m.d(m.b(x).relu()))

    return Net(
        body,
        a=stem(),
        b=nn.Conv2d(8, 6, 1),
        d=nn.Conv2d(6, 8, 1),
        s=nn.Parameter(torch.rand(8, 1, 1) + 0.5),
        c=head(8),
    )


@case({"a": 8})
def per_channel_buffer() -> nn.Module:
    return Net(
        lambda m, x: m.c((m.a(x) - m.mean) / m.std),
        a=stem(),
        mean=torch.rand(1, 8, 1, 1),
        std=torch.rand(1, 8, 1, 1) + 0.5,
        c=head(8),
    )


@case({"a": 12}, TOKENS)
def rms_norm() -> nn.Module:
    return Net(
        lambda m, x: m.c(m.n(m.a(x))), a=nn.Linear(12, 12), n=nn.RMSNorm(12, eps=1e-6), c=nn.Linear(12, 4)
    )


@case({"a": 8, "up": 16})
def convnext_block() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        y = m.n(m.d(x).permute(0, 2, 3, 1))
        y = m.s * m.down(functional.gelu(m.up(y)))
        return m.c(x + y.permute(0, 3, 1, 2))

    return Net(
        body,
        a=stem(),
        d=nn.Conv2d(8, 8, 7, padding=3, groups=8),
        n=nn.LayerNorm(8, eps=1e-6),
        up=nn.Linear(8, 16),
        down=nn.Linear(16, 8),
        s=nn.Parameter(torch.rand(8)),
        c=head(8),
    )


@case({"a": 12, "qkv": 3})
def window_attention() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        x = torch.roll(m.a(x).permute(0, 2, 3, 1), (-1, -1), (1, 2))
        windows = x.view(2, 2, 4, 2, 4, 12).permute(0, 1, 3, 2, 4, 5).reshape(8, 16, 12)
        y = _attention(m, windows, False)
        y = y.view(2, 2, 2, 4, 4, 12).permute(0, 1, 3, 2, 4, 5).reshape(2, 8, 8, 12)
        return m.c(torch.roll(x + y, (1, 1), (1, 2)).permute(0, 3, 1, 2))

    return Net(body, a=stem(12), qkv=nn.Linear(12, 36), out=nn.Linear(12, 12), c=head(12))


@case({"a": 8, "r": 6})
def patch_merging() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).permute(0, 2, 3, 1)
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return m.c(m.r(m.n(torch.cat(parts, -1))))

    return Net(body, a=stem(), n=nn.LayerNorm(32), r=nn.Linear(32, 6, bias=False), c=nn.Linear(6, 4))


@case({"a": 8, "b": 4})
def batch_norm_after_concat() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        return m.c(m.n(torch.cat([m.a(x), m.b(x)], 1)).relu())

    return Net(body, a=stem(), b=stem(4), n=nn.BatchNorm2d(12), c=head(12))


@case({"a": 8}, declined={"c": "output of the model", "d": "output of the model"})
def two_outputs() -> nn.Module:
    def body(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        x = m.a(x).relu()
        return m.c(x), m.d(x).mean((2, 3))

    return Net(body, a=stem(), c=head(8), d=head(8))


@case({"a": 8, "b": 4}, IMAGE, TOKENS)
def several_inputs() -> nn.Module:
    def body(m: Net, x: Tensor, y: Tensor) -> Tensor:
        return m.c(m.a(x).mean((2, 3))) + m.d(m.b(y).mean(1))

    return Net(body, a=stem(), b=nn.Linear(12, 4), c=nn.Linear(8, 5), d=nn.Linear(4, 5))


@case({"a": 8})
def written_views() -> nn.Module:
    """Rows and columns of maps are overwritten: channels pass."""

    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x) * 2
        y[:, :, 1:, 1:] += m.b(x)[:, :, :-1, :-1]
        y[..., 0] = y[..., 7].exp()
        return m.c(y)

    return Net(body, a=stem(), b=stem(), c=head(8))


@case({}, declined={"a": "a part is exchanged"})
def written_channels() -> nn.Module:
    """Some channels are overwritten, by number: they stay."""

    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x) * 2
        y[:, :3] += x
        return m.c(y)

    return Net(body, a=stem(), c=head(8))
