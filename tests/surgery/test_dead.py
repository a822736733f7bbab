"""Constant channels go, and nothing changes: exact in double precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import hwprune
from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.edits import Folded
from hwprune.surgery.constancy import Constancy
from hwprune.surgery.dead import find_dead
from tests.nets import NETS, settle

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TIGHT = 1e-12


def silence(norm: nn.Module, scale: dict[int, float]) -> None:
    """Zero scales, with these biases."""
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        for channel, bias in scale.items():
            norm.weight[channel] = 0
            norm.bias[channel] = bias


def fold(model: nn.Module, x: Tensor = IMAGE) -> Folded:
    """Fold, and check against the original on other inputs."""
    state = copy.deepcopy(model.state_dict())
    folded = hwprune.fold_dead(model, x)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    other = torch.randn(3, *x.shape[1:], dtype=torch.float64)
    with torch.no_grad():
        wanted, got = model.eval()(other), folded.model.eval()(other)
    assert (wanted - got).abs().max() <= TIGHT * wanted.abs().max()
    assert folded.max_rel_error <= TIGHT
    return folded


class Net(nn.Module):
    """conv-bn-act, then a reader: a convolution with or without padding, bias and BatchNorm."""

    def __init__(self, act: nn.Module, padding: int = 0, bias: bool = True, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.act = act
        self.reader = nn.Conv2d(8, 5, 3, padding=padding, bias=bias)
        self.after = nn.BatchNorm2d(5) if norm else nn.Identity()
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(self.act(self.norm(self.conv(x))), 2)
        return self.head(self.after(self.reader(x)).relu().mean((2, 3)))


ACTIVATIONS = [nn.ReLU(), nn.Sigmoid(), nn.Hardswish(), nn.GELU(), nn.LeakyReLU(0.3), nn.Identity()]


@pytest.mark.parametrize(
    ("act", "bias", "norm"),
    [(act, number % 2 == 0, number % 3 == 1) for number, act in enumerate(ACTIVATIONS)],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_through_activations_into_bias_mean_or_a_new_bias(act: nn.Module, bias: bool, norm: bool) -> None:
    model = settle(Net(act, bias=bias, norm=norm)).double()
    silence(model.norm, {1: 0.7, 4: -1.3, 7: 0.0})
    folded = fold(model)
    assert folded.removed == {"conv": (1, 4, 7)}
    assert isinstance(folded.model, Net)
    assert folded.model.conv.out_channels == 5
    assert (folded.model.reader.bias is not None) == (bias or not norm)
    if norm and not bias:
        assert not torch.equal(folded.model.after.running_mean, model.after.running_mean)
    folded.model.train()
    folded.model(IMAGE).sum().backward()
    assert all(p.grad is not None for p in folded.model.parameters())


def test_zero_padding_takes_up_zeros_only() -> None:
    model = settle(Net(nn.ReLU(), padding=1)).double()
    silence(model.norm, {0: 0.7, 3: -1.3, 5: 0.2})
    folded = fold(model)
    assert folded.removed == {"conv": (3,)}
    (line,) = folded.ledger
    assert (line.name, line.channels) == ("conv", 2)
    assert "not uniform behind the zero padding of 'conv2d_1'" in line.reason
    assert torch.equal(folded.model.reader.bias, model.reader.bias)


class Chain(nn.Module):
    """Depthwise, squeeze-excite, residual sums, concatenation, flatten: all hand constants on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.b = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.depthwise = nn.Conv2d(6, 6, 1, groups=6)
        self.down, self.up = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        self.grouped = nn.Conv2d(12, 8, 1, groups=2)
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.a(x) + self.b(x)) * self.scale
        x = self.depthwise(x)
        y = x * torch.sigmoid(self.up(self.down(functional.adaptive_avg_pool2d(x, 1)).relu()))
        x = torch.cat([x, y], 1)
        return self.head(functional.max_pool2d(self.grouped(x).relu(), 2).flatten(1))


def test_constants_are_handed_on() -> None:
    model = settle(Chain()).double()
    silence(model.a[1], {1: 0.5, 2: -0.4, 4: 0.0})
    silence(model.b[1], {1: 0.3, 2: 0.4, 3: 0.9})
    with torch.no_grad():
        model.depthwise.bias[2] = 0  # tanh(0) is 0: the gate cannot change it
        model.grouped.weight[3] = 0
        model.grouped.weight[7] = 0
    captured = capture(model, IMAGE)
    constancy = Constancy(captured)
    known = {n.name: k for n, k in constancy.known.items()}
    assert known["conv2d_2"].mask.nonzero().flatten().tolist() == [1, 2]
    assert known["mul_1"].mask.nonzero().flatten().tolist() == [2]
    for node, found in constancy.known.items():
        assert node.meta["val"].shape[found.dim] == len(found.values)
    folded = fold(model)
    assert folded.removed == {"a.0": (2,), "grouped": (3,)}


def test_everything_known_is_true() -> None:
    """The values claimed for every node, against the graph run on random inputs."""
    model = settle(Chain()).double()
    silence(model.a[1], {1: 0.5, 2: -0.4, 4: 0.0})
    silence(model.b[1], {1: 0.3, 2: 0.4, 3: 0.9})
    with torch.no_grad():
        model.grouped.weight[3] = 0
    for network in (model, settle(Net(nn.Mish(), padding=1, norm=True)).double()):
        if isinstance(network, Net):
            silence(network.norm, {0: 0.7, 3: -1.3})
            with torch.no_grad():
                network.reader.weight[2] = 0
        captured = capture(network, IMAGE)
        constancy = Constancy(captured)
        assert len(constancy.known) >= 5

        class Watch(torch.fx.Interpreter):
            def run_node(self, n: torch.fx.Node) -> object:
                value = super().run_node(n)
                found = constancy.known.get(n)  # noqa: B023 - used at once
                if found is not None:
                    seen = value.movedim(found.dim, 0).flatten(1)[found.mask]
                    claimed = found.values[found.mask][:, None].expand_as(seen)
                    torch.testing.assert_close(seen, claimed, rtol=1e-12, atol=1e-12)
                return value

        with torch.no_grad():
            Watch(captured.graph).run(torch.randn_like(IMAGE), enable_io_processing=False)


class Reused(nn.Module):
    """One reader, called on constants that differ or agree."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6))
        self.reader = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.head((self.reader(x.relu()) + self.reader(x.sigmoid())).mean((2, 3)))


def test_a_reader_that_is_used_twice() -> None:
    model = settle(Reused()).double()
    silence(model.a[1], {1: 0.5})
    folded = fold(model)
    assert folded.removed == {}
    assert "used several times, and the constants differ" in folded.ledger[0].reason
    silence(model.a[1], {1: 0.0})
    model.reader.weight.data[:, 1] = 0  # whatever it is, it is not heard
    assert fold(model).removed == {"a.0": (1,)}


def test_nothing_dead_and_everything_dead() -> None:
    model = settle(NETS["residual"]()).double()
    folded = fold(model)
    assert folded.removed == {}
    assert folded.ledger == ()
    assert folded.model is not model
    model = settle(Net(nn.ReLU())).double()
    silence(model.norm, dict.fromkeys(range(8), 0.5))
    assert fold(model).removed == {"conv": tuple(range(7)), "reader": tuple(range(4))}  # one stays


def test_the_branch_of_a_zero_initialised_block() -> None:
    model = settle(NETS["residual"]()).double()
    silence(model.a2[1], dict.fromkeys(range(8), 0.0))  # the branch is nothing, its inside is not
    captured = capture(model, IMAGE)
    found = find_dead(captured, analyse(captured))
    assert found.units == {}
    (line,) = found.ledger
    assert (line.name, line.channels) == ("stem.0", 8)
    assert "the scale a2.1.weight is zero, but where the channel is read it varies" in line.reason
    silence(model.a1[1], {0: -0.5, 5: -0.1})
    folded = fold(model)
    assert folded.removed == {"a1.0": (0, 5)}


def test_a_class_that_fixes_widths() -> None:
    class Fixed(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.norm(self.conv(x))).view(-1, 8, 6, 6)
            return self.head(self.reader(x).mean((2, 3)))

    model = settle(Fixed(nn.Sigmoid(), bias=False)).double()
    silence(model.norm, {2: 0.4})
    folded = fold(model)
    assert isinstance(folded.model, torch.fx.GraphModule)
    assert "Fixed is not kept" in folded.ledger[0].reason
