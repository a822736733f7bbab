"""Small networks, one for every construction that channel pruners are known to get wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(1))
Body = Callable[..., "Tensor | tuple[Tensor, ...]"]


class Net(nn.Module):
    """Layers by name, and a forward function given from outside."""

    def __init__(self, body: Body, **layers: nn.Module | Tensor) -> None:
        super().__init__()
        for name, layer in layers.items():
            if isinstance(layer, nn.Module):
                self.add_module(name, layer)
            elif isinstance(layer, nn.Parameter):
                self.register_parameter(name, layer)
            else:
                self.register_buffer(name, layer)
        self.body = body

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.body(self, *inputs)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # the layers


@dataclass(frozen=True)
class Case:
    """A network, the units of every group that must be found, and reasons the ledger must give."""

    make: Callable[[], nn.Module]
    groups: dict[str, int]
    inputs: tuple[Tensor, ...] = (IMAGE,)
    declined: dict[str, str] = field(default_factory=dict[str, str])


CASES: dict[str, Case] = {}


def case(
    groups: dict[str, int], *inputs: Tensor, declined: dict[str, str] | None = None
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register a network under the name of the function that makes it."""

    def register(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        CASES[make.__name__] = Case(make, groups, inputs or (IMAGE,), declined or {})
        return make

    return register


def stem(width: int = 8) -> nn.Conv2d:
    return nn.Conv2d(3, width, 3, padding=1)


def head(width: int) -> nn.Conv2d:
    return nn.Conv2d(width, 5, 1)


@case({"a": 8})
def constant_view() -> nn.Module:
    return Net(lambda m, x: m.c(m.a(x).view(2, 8 * 64)), a=stem(), c=nn.Linear(512, 5))


@case({"a": 8})
def flatten_to_linear() -> nn.Module:
    return Net(lambda m, x: m.c(functional.max_pool2d(m.a(x), 2).flatten(1)), a=stem(), c=nn.Linear(128, 5))


@case({"a": 4})
def channel_shuffle() -> nn.Module:
    return Net(lambda m, x: m.c(functional.channel_shuffle(m.a(x), 2).relu()), a=stem(), c=head(8))


@case({"a": 8})
def pixel_shuffle() -> nn.Module:
    return Net(lambda m, x: m.c(functional.pixel_shuffle(m.a(x), 2)), a=stem(32), c=head(8))


@case({"a": 8})
def pixel_unshuffle() -> nn.Module:
    return Net(lambda m, x: m.c(functional.pixel_unshuffle(m.a(x), 2)), a=stem(), c=head(32))


@case({"a": 8})
def reused_convolution() -> nn.Module:
    return Net(lambda m, x: m.c(m.b(m.b(m.a(x)).relu())), a=stem(), b=nn.Conv2d(8, 8, 1), c=head(8))


@case({"a": 8})
def tied_parameters() -> nn.Module:
    net = Net(
        lambda m, x: m.c(m.b(m.d(m.a(x)).relu())),
        a=stem(),
        b=nn.Conv2d(8, 8, 1),
        d=nn.Conv2d(8, 8, 1),
        c=head(8),
    )
    net.b.weight = net.d.weight
    return net


@case({"a": 4})
def group_norm() -> nn.Module:
    return Net(lambda m, x: m.c(m.n(m.a(x))), a=stem(), n=nn.GroupNorm(4, 8), c=head(8))


@case({"a": 3, "b": 4})
def grouped_convolution() -> nn.Module:
    return Net(lambda m, x: m.c(m.b(m.a(x)).relu()), a=stem(6), b=nn.Conv2d(6, 8, 3, groups=2), c=head(8))


@case({"a": 8, "d": 4})
def squeeze_excite_linear() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.c(x * m.u(m.d(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None])

    return Net(body, a=stem(), d=nn.Linear(8, 4), u=nn.Linear(4, 8), c=head(8))


@case({"a": 8, "d": 4})
def squeeze_excite_convolution() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.c(x * m.u(m.d(functional.adaptive_avg_pool2d(x, 1)).relu()).sigmoid())

    return Net(body, a=stem(), d=nn.Conv2d(8, 4, 1), u=nn.Conv2d(4, 8, 1), c=head(8))


@case({"a": 8})
def weight_norm() -> nn.Module:
    return Net(lambda m, x: m.c(m.a(x).relu()), a=parametrizations.weight_norm(stem()), c=head(8))


@case({"a": 3, "b": 4})
def transposed_convolution_with_groups() -> nn.Module:
    return Net(lambda m, x: m.c(m.b(m.a(x))), a=stem(6), b=nn.ConvTranspose2d(6, 8, 2, groups=2), c=head(8))


@case({"a": 8})
def depthwise_multiplier() -> nn.Module:
    return Net(lambda m, x: m.c(m.b(m.a(x)).relu()), a=stem(), b=nn.Conv2d(8, 16, 3, groups=8), c=head(16))


@case({"a": 8})
def chunk_to_glu() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        one, two = m.a(x).chunk(2, 1)
        return m.c(one * two.sigmoid())

    return Net(body, a=stem(16), c=head(8))


@case({"a": 8})
def glu_operator() -> nn.Module:
    return Net(lambda m, x: m.c(functional.glu(m.a(x), 1)), a=stem(16), c=head(8))


@case({"a": 3, "a#2": 5})
def constant_split() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        one, two = m.a(x).split([3, 5], 1)
        return m.c(one.relu()) + m.d(two)

    return Net(body, a=stem(), c=head(3), d=head(5))


@case({"a": 2, "a#2": 5}, declined={"a": "single unit"})  # two channels before the slice, one behind
def constant_slice() -> nn.Module:
    return Net(lambda m, x: m.c(m.a(x)[:, 2:7]), a=stem(), c=head(5))


@case({"a": 8})
def prelu() -> nn.Module:
    return Net(lambda m, x: m.c(m.p(m.a(x))), a=stem(), p=nn.PReLU(8), c=head(8))


@case({"a": 8})
def same_tensor_twice() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).relu()
        return m.c(torch.cat([x, x], 1))

    return Net(body, a=stem(), c=head(16))


@case({"a": 8, "b": 4, "d": 4})
def dense_concat_chain() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        x = torch.cat([x, m.b(x.relu())], 1)
        x = torch.cat([x, m.d(m.n(x).relu())], 1)
        return m.c(x)

    return Net(
        body,
        a=stem(),
        b=nn.Conv2d(8, 4, 1),
        n=nn.BatchNorm2d(12),
        d=nn.Conv2d(12, 4, 3, padding=1),
        c=head(16),
    )


@case({"a": 4}, declined={"b": "padding channels"})
def channel_padding() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.c((m.b(x) + functional.pad(x, (0, 0, 0, 0, 2, 2))).relu())

    return Net(body, a=stem(4), b=nn.Conv2d(4, 8, 1), c=head(8))


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
