"""Pruned models on disk come back bit for bit or are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hwprune.capture import TrainableGraph, capture
from hwprune.dependency import analyse
from hwprune.errors import ArtifactError
from hwprune.surgery import load_pruned, prune_model, save_pruned
from tests.nets import NETS, settle

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class _Fixed(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.shift = torch.arange(float(width)).view(1, width, 1, 1)
        self.head = nn.Linear(width * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.conv(x) + self.shift).reshape(-1, self.width * 64))


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(192, 8)
        self.loop = nn.Linear(8, 8)
        self.twin = nn.Linear(8, 8)
        self.twin.weight = self.loop.weight
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.twin(self.loop(self.first(x.flatten(1)).relu()).relu()).relu())


def _save(directory: Path, model: nn.Module, keep: dict[str, list[int]]) -> nn.Module:
    captured = capture(model, IMAGE)
    deps = analyse(captured)
    pruned, _ = prune_model(captured, deps, keep)
    pruned.train()
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.1)
    pruned(IMAGE).square().mean().backward()
    optimizer.step()
    save_pruned(directory, pruned, captured, deps, keep, {"note": [1, 2]})
    return pruned.eval()


@pytest.mark.parametrize(
    ("factory", "keep", "form"),
    [
        (NETS["residual"], {"stem.0": [0, 3, 4], "c1.0": [2, 9]}, None),
        (NETS["depthwise"], {"expand.0": [0, 7], "project": [1, 2, 5]}, None),
        (NETS["concat"], {"a": [1, 2], "b": [0, 5]}, None),
        (_Tied, {"first": [0, 4, 5]}, None),
        (_Fixed, {"conv": [1, 6]}, TrainableGraph),
    ],
)
def test_round_trip_is_bit_equal(
    tmp_path: Path, factory: type[nn.Module], keep: dict[str, list[int]], form: type | None
) -> None:
    pruned = _save(tmp_path / "out", settle(factory()), keep)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["plan.json", "weights.safetensors"]
    loaded = load_pruned(tmp_path / "out", factory)
    assert loaded.plan == {"note": [1, 2]}
    assert isinstance(loaded.model, form or factory)
    assert isinstance(pruned, form or factory)
    state = loaded.model.state_dict()
    assert list(state) == list(pruned.state_dict())
    assert all(torch.equal(v, state[k]) for k, v in pruned.state_dict().items())
    assert torch.equal(loaded.model(IMAGE), pruned(IMAGE))


def test_shared_weights_are_stored_once_and_stay_shared(tmp_path: Path) -> None:
    _save(tmp_path / "out", _Tied(), {"first": [0, 1]})
    loaded = load_pruned(tmp_path / "out", _Tied).model
    assert isinstance(loaded, _Tied)
    assert loaded.twin.weight is loaded.loop.weight


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    _save(tmp_path / "a", settle(NETS["residual"]()), {"stem.0": [0, 3]})
    with pytest.raises(ArtifactError, match=r"weight' is None"):
        load_pruned(tmp_path / "a", _Tied)
    with pytest.raises(ArtifactError, match="factory does not build"):
        load_pruned(tmp_path / "a", lambda: nn.Sequential(NETS["residual"]()))
    _save(tmp_path / "b", _Fixed(), {"conv": [0, 3]})
    with pytest.raises(ArtifactError, match="factory does not build"):
        load_pruned(tmp_path / "b", lambda: _Fixed(2))


def test_damage_and_edits_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _save(out, settle(NETS["plain"]()), {"conv": [0, 3]})
    weights, plan = out / "weights.safetensors", out / "plan.json"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="checksum"):
        load_pruned(out, NETS["plain"])
    weights.unlink()
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
        load_pruned(out, NETS["plain"])
    weights.write_bytes(good)
    edited = json.loads(plan.read_text())
    edited["payload"]["plan"]["note"] = 3
    plan.write_text(json.dumps(edited))
    with pytest.raises(ArtifactError, match="edited"):
        load_pruned(out, NETS["plain"])


def test_a_directory_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(ArtifactError, match="not replaced"):
        _save(out, settle(NETS["plain"]()), {"conv": [0, 3]})
    assert (out / "thesis.tex").read_text() == "precious"
    _save(tmp_path / "mine", settle(NETS["plain"]()), {"conv": [0, 3]})
    _save(tmp_path / "mine", settle(NETS["plain"]()), {"conv": [5]})
    model = load_pruned(tmp_path / "mine", NETS["plain"]).model
    assert model.get_parameter("conv.weight").shape[0] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out"]
