"""Small networks, one per structure that the analysis must understand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_bn(cin: int, cout: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )


class Plain(nn.Module):
    """conv-bn-relu, conv with bias, pool, flatten with H*W > 1, two linear layers, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.conv = nn.Conv2d(8, 12, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(48, 10)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(functional.silu(self.conv(self.stem(x))))
        x = x.view(x.size(0), -1)
        return self.head(self.drop(torch.tanh(self.hidden(x))))


class Residual(nn.Module):
    """Two residual blocks on one stage, then a projection block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.a1 = conv_bn(8, 6)
        self.a2 = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.b1 = conv_bn(8, 4)
        self.b2 = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.c1 = conv_bn(8, 10)
        self.c2 = nn.Sequential(nn.Conv2d(10, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.shortcut = nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.a2(self.a1(x))
        y += x
        x = functional.relu(y)
        x = functional.relu(self.b2(self.b1(x)) + x)
        x = functional.relu(self.c2(self.c1(x)) + self.shortcut(x))
        return self.head(x.mean((2, 3)))


class Depthwise(nn.Module):
    """Expand, depthwise, project; then a depthwise convolution with multiplier 2."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = conv_bn(3, 8, 1)
        self.depthwise = conv_bn(8, 8, 3, groups=8)
        self.project = nn.Conv2d(8, 6, 1)
        self.multiply = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.mix = conv_bn(12, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.multiply(self.project(self.depthwise(self.expand(x)))))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Grouped(nn.Module):
    """A grouped convolution between two plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv_bn(3, 12, 1)
        self.grouped = conv_bn(12, 8, 3, groups=2)
        self.last = conv_bn(8, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.grouped(self.first(x))).mean((2, 3)))


class Concat(nn.Module):
    """Dense connections: concatenations of concatenations, BatchNorm on the result."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.c = nn.Conv2d(10, 5, 3, padding=1)
        self.d = nn.Conv2d(15, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        ab = torch.cat([a, functional.relu(self.b(a))], 1)
        c = self.c(functional.relu(self.norm(ab)))
        d = functional.gelu(self.d(torch.cat([c, ab], 1)))
        return self.head(d.mean((2, 3)))


class Gate(nn.Module):
    """Squeeze and excite, and a one-channel spatial gate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_bn(3, 8)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.spatial = nn.Conv2d(8, 1, 1)
        self.out = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        s = functional.adaptive_avg_pool2d(x, 1)
        x = x * torch.sigmoid(self.excite(functional.relu(self.squeeze(s))))
        x = x * torch.sigmoid(self.spatial(x))
        return self.head(self.out(x).mean((2, 3)))


def settle(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random BatchNorm statistics and affine parameters, so that no channel is trivial."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight.data, 0.5), (module.running_var, 0.5)):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
            for tensor in (module.bias.data, module.running_mean):
                assert tensor is not None
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return model


NETS: dict[str, type[nn.Module]] = {
    "plain": Plain,
    "residual": Residual,
    "depthwise": Depthwise,
    "grouped": Grouped,
    "concat": Concat,
    "gate": Gate,
}
