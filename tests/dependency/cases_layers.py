"""Constructions of convolutional networks: views, groups, splits, concatenations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from tests.dependency.case import Net, case, head, stem


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
