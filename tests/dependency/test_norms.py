"""Normalisation: exact where statistics stay apart, over kept channels where they do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.surgery import cut_graph, masked_original, prune_model
from tests.dependency.exact import examine, settled

IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class _Between(nn.Module):
    def __init__(self, body: nn.Module | Callable[[Tensor], Tensor], channels: int = 12) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, 5, 1)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.tanh(self.body(self.one(x)))).mean((2, 3))


@pytest.mark.parametrize(
    ("norm", "units"),
    [
        (nn.GroupNorm(4, 12), 4),
        (nn.GroupNorm(4, 12, affine=False), 4),
        (nn.GroupNorm(12, 12), 12),
        (nn.GroupNorm(1, 12), 12),
        (nn.InstanceNorm2d(12), 12),
        (nn.InstanceNorm2d(12, affine=True, track_running_stats=True), 12),
        (nn.BatchNorm2d(12), 12),
    ],
    ids=["group", "group_plain", "group_per_channel", "group_one", "instance", "instance_affine", "batch"],
)
def test_norms_over_channels(norm: nn.Module, units: int) -> None:
    examine(_Between(norm), IMAGE, {"one": units})


def test_group_norm_keeps_the_size_of_its_groups_and_the_class() -> None:
    model = settled(_Between(nn.GroupNorm(4, 12)))
    captured = capture(model, IMAGE.double())
    deps = analyse(captured)
    assert deps.group("one").channels_per_unit == 3
    pruned, reason = prune_model(captured, deps, {"one": [0, 3]}, tolerance=1e-9)
    assert reason is None
    norm = pruned.get_submodule("body")
    assert (norm.num_groups, norm.num_channels) == (2, 6)
    # An oracle that knows nothing of graphs: the consumer is deaf to channels 3 to 8.
    silent = settled(_Between(nn.GroupNorm(4, 12)))
    silent.load_state_dict(model.state_dict())
    silent.two.weight.data[:, 3:9] = 0
    torch.testing.assert_close(pruned(IMAGE.double()), silent(IMAGE.double()))


def test_group_norm_over_channels_of_two_layers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 1)
            self.norm = nn.GroupNorm(6, 12)
            self.head = nn.Conv2d(12, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(torch.cat([self.a(x), self.b(x)], 1)))

    examine(Net(), IMAGE, {"a": 2, "b": 4})


class _LayerNormNet(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 10)
        self.norm = norm
        self.up, self.down = nn.Linear(10, 16), nn.Linear(16, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.down(functional.gelu(self.up(self.norm(x)))))


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(10),
        nn.LayerNorm(10, bias=False),
        nn.LayerNorm(10, elementwise_affine=False),
        nn.RMSNorm(10),
    ],
    ids=["layer", "no_bias", "plain", "rms"],
)
def test_norms_across_channels_count_kept_channels(norm: nn.Module) -> None:
    captured, deps = examine(_LayerNormNet(norm), torch.randn(4, 7, 6), {"embed": 10, "up": 16})
    assert len(deps.group("embed").statistics) == 1
    assert deps.group("up").statistics == ()
    assert captured.model.norm.normalized_shape == (10,)


def test_layer_norm_against_slices_taken_by_hand() -> None:
    model = settled(_LayerNormNet(nn.LayerNorm(10)))
    x = torch.randn(4, 6, dtype=torch.float64)
    captured = capture(model, x)
    deps = analyse(captured)
    kept = [1, 2, 5, 9]
    narrow = _LayerNormNet(nn.LayerNorm(4)).double()
    narrow.embed, narrow.head = nn.Linear(6, 4).double(), nn.Linear(4, 3).double()
    narrow.up, narrow.down = nn.Linear(4, 16).double(), nn.Linear(16, 4).double()
    cuts = {"embed": 0, "norm": 0, "up": 1, "down": 0, "head": 1}
    for name, dim in cuts.items():
        old, new = model.get_submodule(name), narrow.get_submodule(name)
        new.weight.data = old.weight.data.index_select(dim, torch.tensor(kept))
        new.bias.data = old.bias.data[kept] if dim == 0 else old.bias.data
    expected = narrow(x)
    torch.testing.assert_close(masked_original(captured, deps, {"embed": kept})(x), expected)
    torch.testing.assert_close(cut_graph(captured, deps, {"embed": kept})(x), expected)
    pruned, reason = prune_model(captured, deps, {"embed": kept})
    assert reason is None
    assert pruned.norm.normalized_shape == (4,)


class _Affine(nn.Module):
    """Norms over channels written out, as they are in many models."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.weight, self.bias = nn.Parameter(torch.randn(12, 1, 1)), nn.Parameter(torch.randn(12, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "rms":
            y = x * (x.square().mean(1, keepdim=True) + 1e-5).rsqrt()
        elif self.form == "layer":
            centred = x - x.mean(1, keepdim=True)
            y = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
        elif self.form == "variance":
            y = (x - x.mean(dim=1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        elif self.form == "response":  # ConvNeXt V2
            size = x.norm(p=2, dim=(2, 3), keepdim=True)
            y = x + x * (size / (size.mean(1, keepdim=True) + 1e-6))
        elif self.form == "attention":  # CBAM's spatial gate
            y = x * torch.sigmoid(x.mean(1, keepdim=True) - x.amax(1, keepdim=True) + x.amin(1, keepdim=True))
        else:
            y = functional.normalize(x, dim=1) + x / (1 + x.square().sum(1, keepdim=True))
        return y * self.weight + self.bias


@pytest.mark.parametrize("form", ["rms", "layer", "variance", "response", "attention", "length"])
def test_norms_that_are_written_out(form: str) -> None:
    _, deps = examine(_Between(_Affine(form)), IMAGE, {"one": 12})
    assert bool(deps.group("one").statistics) == (form != "length")


def test_layer_norm_over_channels_and_positions() -> None:
    examine(_Between(nn.LayerNorm([12, 6, 6])), IMAGE, {"one": 12})


def test_layer_norm_over_positions_lets_channels_pass() -> None:
    _, deps = examine(_Between(nn.LayerNorm([6, 6])), IMAGE, {"one": 12})
    assert deps.group("one").statistics == ()


class _ConvNeXtBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 20), nn.Linear(20, 8)
        self.gamma = nn.Parameter(torch.rand(8) + 0.5)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(functional.gelu(self.up(y)))
        return self.head(x + y.permute(0, 3, 1, 2))


def test_convnext_block() -> None:
    examine(_ConvNeXtBlock(), IMAGE, {"stem": 8, "up": 20})


def test_local_response_norm_is_declined() -> None:
    deps = analyse(capture(_Between(nn.LocalResponseNorm(3)), IMAGE))
    assert deps.groups == ()
    assert any(line.name == "one" for line in deps.ledger)
