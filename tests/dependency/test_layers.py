"""Layers with weights of unusual forms: transposed, computed, shared, per channel."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.surgery import load_pruned, prune_model, save_pruned
from tests.dependency.exact import examine, settled

IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def _chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (_chain(nn.Conv1d(3, 6, 3), nn.PReLU(6), nn.Conv1d(6, 2, 1)), (2, 3, 9), {"0": 6}),
        (_chain(nn.Conv3d(3, 6, 2), nn.PReLU(), nn.Conv3d(6, 2, 1)), (2, 3, 4, 4, 4), {"0": 6}),
        (_chain(nn.Conv2d(3, 6, 2), nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 2, 1)), None, {"0": 6}),
        (_chain(nn.Conv2d(3, 6, 2), nn.ConvTranspose2d(6, 4, 2), nn.Conv2d(4, 2, 1)), None, {"0": 6, "1": 4}),
        (
            _chain(nn.Conv2d(3, 6, 2), nn.ConvTranspose2d(6, 8, 2, groups=2), nn.Conv2d(8, 2, 1)),
            None,
            {"0": 3, "1": 4},
        ),
        (
            _chain(nn.Conv2d(3, 6, 2), nn.ConvTranspose2d(6, 12, 2, groups=6), nn.Conv2d(12, 2, 1)),
            None,
            {"0": 6},
        ),
        (
            _chain(nn.Conv2d(3, 6, 2), nn.ConvTranspose2d(6, 6, 2, groups=6, bias=False), nn.Conv2d(6, 2, 1)),
            None,
            {"0": 6},
        ),
        (
            _chain(nn.Conv1d(3, 6, 3), nn.ConvTranspose1d(6, 6, 2, groups=3), nn.Conv1d(6, 2, 1)),
            (2, 3, 9),
            {"0": 2, "1": 2},
        ),
    ],
    ids=[
        "conv1d",
        "conv3d",
        "multiplier",
        "transposed",
        "grouped",
        "depthwise",
        "depthwise_one",
        "grouped1d",
    ],
)
def test_chains(model: nn.Module, shape: tuple[int, ...] | None, expected: dict[str, int]) -> None:
    x = IMAGE if shape is None else torch.randn(shape)
    captured, deps = examine(model, x, expected)
    keep = {g.name: list(range(1, g.size)) for g in deps.groups}
    assert prune_model(captured, deps, keep)[1] is None  # the class follows


class _Squeeze(nn.Module):
    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.down = nn.Linear(8, 4) if linear else nn.Conv2d(8, 4, 1)
        self.up = nn.Linear(4, 8) if linear else nn.Conv2d(4, 8, 1)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        s = x.mean((2, 3)) if self.linear else functional.adaptive_avg_pool2d(x, 1)
        s = torch.sigmoid(self.up(functional.relu(self.down(s))))
        return self.head(x * (s[:, :, None, None] if self.linear else s))


@pytest.mark.parametrize("linear", [True, False])
def test_squeeze_and_excite(linear: bool) -> None:
    examine(_Squeeze(linear), IMAGE, {"conv": 8, "down": 4})


def test_gated_unit_by_chunk() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(6, 16), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            value, gate = self.up(x).chunk(2, -1)
            return self.down(value * functional.silu(gate))

    _, deps = examine(Net(), torch.randn(4, 6), {"up": 8})
    assert deps.group("up").channels_per_unit == 2


@pytest.mark.parametrize(
    "wrap",
    [parametrizations.weight_norm, parametrizations.spectral_norm, weight_norm, spectral_norm],
    ids=["weight", "spectral", "old_weight", "old_spectral"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_parametrised_weights(wrap: Callable[[nn.Module], nn.Module], tmp_path: object) -> None:
    def build() -> nn.Module:
        torch.manual_seed(3)
        return _chain(
            wrap(nn.Conv2d(3, 6, 2)), nn.Tanh(), wrap(nn.Conv2d(6, 5, 2)), nn.Tanh(), nn.Conv2d(5, 2, 1)
        )

    captured, deps = examine(build(), IMAGE, {"0": 6, "2": 5})
    names = [name for name, _ in captured.model.named_parameters()]
    y = captured.model(IMAGE.double())
    pruned, reason = prune_model(captured, deps, {"0": [0, 2], "2": [1]})
    assert reason is None
    assert (pruned[0].out_channels, pruned[2].weight.shape) == (2, (1, 2, 2, 2))
    assert [name for name, _ in captured.model.named_parameters()] == names  # the user's module is as it was
    torch.testing.assert_close(captured.model(IMAGE.double()), y)
    save_pruned(tmp_path / "saved", pruned, captured, deps, {"0": [0, 2], "2": [1]})  # type: ignore[operator]
    loaded = load_pruned(tmp_path / "saved", lambda: build().double()).model  # type: ignore[operator]
    torch.testing.assert_close(loaded(IMAGE.double()), pruned.eval()(IMAGE.double()))


class _Standardised(nn.Conv2d):
    """Weight standardisation: the weight is computed in ``forward``."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(flat, None, None, training=True, momentum=0.0)
        return functional.conv2d(x, weight.reshape_as(self.weight), self.bias)


def test_standardised_weights_are_stored() -> None:
    model = _chain(_Standardised(3, 6, 2), nn.Tanh(), _Standardised(6, 5, 2), nn.Tanh(), nn.Conv2d(5, 2, 1))
    captured, _ = examine(model, IMAGE, {"0": 6, "2": 5})
    torch.testing.assert_close(captured.graph(IMAGE.double()), model(IMAGE.double()))


def test_bias_with_a_part_that_is_zeroed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8))
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            bias = self.bias.clone()
            bias[2:5].zero_()
            return self.head(torch.tanh(functional.linear(x, self.weight, bias)))

    captured, _ = examine(Net(), torch.randn(3, 6), {"weight": 8})
    x = torch.randn(3, 6).double()
    torch.testing.assert_close(captured.graph(x), captured.model(x))


def test_weights_computed_by_another_layer() -> None:
    class Net(nn.Module):
        """A convolution whose weights come from a linear layer."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.hyper, self.head = nn.Conv2d(3, 6, 1), nn.Linear(4, 6), nn.Conv2d(5, 2, 1)
            self.codes = nn.Parameter(torch.randn(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            kernel = self.hyper(self.codes + x.mean()).view(5, 6, 1, 1)
            return self.head(torch.tanh(functional.conv2d(torch.tanh(self.conv(x)), kernel)))

    _, deps = examine(Net(), IMAGE, {"hyper": 6, "conv2d_1": 5})
    assert {(m.param, m.role) for m in deps.group("hyper").members if m.param.startswith("hyper")} == {
        ("hyper.weight", "producer"),
        ("hyper.bias", "channelwise"),
    }


class _Tokens(nn.Module):
    """Class token, position embedding, layer scale, per-channel buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 8, 2, stride=2), nn.Linear(8, 2)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 10, 8))
        self.gamma = nn.Parameter(torch.randn(8))
        self.register_buffer("shift", torch.randn(8))
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = x + self.gamma * self.mlp(x + self.shift)
        return self.head(x[:, 0])


def test_tokens_and_positions() -> None:
    _, deps = examine(_Tokens(), IMAGE, {"patch": 8, "mlp.0": 12})
    names = {m.param for m in deps.group("patch").members}
    assert {"token", "position", "gamma", "shift"} <= names


class _Words(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 8), nn.Embedding(5, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 20, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x) + self.places(torch.arange(5, device=x.device))
        return self.head(x + torch.tanh(self.mix(x)))


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings(tied: bool) -> None:
    captured, deps = examine(_Words(tied), torch.randint(0, 20, (2, 5)), {"words": 8})
    pruned, reason = prune_model(captured, deps, {"words": [1, 2, 6]}, tolerance=1e-9)
    assert reason is None
    assert pruned.words.embedding_dim == 3
    assert (pruned.head.weight is pruned.words.weight) == tied


def test_reused_module_and_tied_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.loop, self.twin = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
            self.norm, self.head = nn.GroupNorm(3, 6), nn.Conv2d(6, 2, 1)
            self.twin.weight = self.loop.weight

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(torch.tanh(self.stem(x)))
            return self.head(self.twin(self.norm(self.loop(self.loop(x)))))

    examine(Net(), IMAGE, {"stem": 3})


def test_sampling_grid_passes_channels_and_stays_itself() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.where, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            grid = torch.tanh(self.where(x)).permute(0, 2, 3, 1)
            return self.head(functional.grid_sample(self.conv(x), grid, align_corners=False))

    examine(Net(), IMAGE, {"conv": 6})


def test_recurrent_layers_keep_their_width() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm, self.head = (
                nn.Linear(3, 6),
                nn.LSTM(6, 4, batch_first=True),
                nn.Linear(4, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(self.embed(x))[0])

    deps = analyse(capture(Net(), torch.randn(2, 5, 3)))
    assert deps.groups == ()
    assert "recurrent layers keep their width" in next(r.reason for r in deps.ledger if r.name == "embed")


def test_copies_do_not_touch_the_class_that_torch_made() -> None:
    model = settled(_chain(parametrizations.weight_norm(nn.Conv2d(3, 4, 1)), nn.Conv2d(4, 2, 1)))
    twin = copy.deepcopy(model)
    capture(model, IMAGE.double())
    torch.testing.assert_close(model(IMAGE.double()), twin(IMAGE.double()))
    assert "parametrizations" in dict(model[0].named_children())
