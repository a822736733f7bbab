"""How a person names models, weights, data and inputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hwprune.errors import UsageError
from hwprune.modelspec import example_inputs, load_data, load_factory, load_model, load_weights
from tests.small import Small, train


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


def test_modules_and_files(tmp_path: Path):
    assert isinstance(load_model("tests.small:Small"), Small)
    (tmp_path / "neighbour_of_net.py").write_text("WIDTH = 7\n")
    (tmp_path / "some_net.py").write_text(
        "from torch import nn\nfrom neighbour_of_net import WIDTH\ndef make(): return nn.Linear(WIDTH, 2)\n"
    )
    found = load_model(f"{tmp_path / 'some_net.py'}:make")
    assert isinstance(found, nn.Linear)
    assert found.in_features == 7
    (tmp_path / "here.py").write_text("from some_net import make\n")
    assert isinstance(load_model("here:make"), nn.Linear)


def test_a_file_named_like_a_module_does_not_replace_it(tmp_path: Path):
    import json

    (tmp_path / "json.py").write_text("from torch import nn\n\ndef make():\n    return nn.ReLU()\n")
    assert isinstance(load_model(f"{tmp_path / 'json.py'}:make"), nn.ReLU)
    assert sys.modules["json"] is json


def test_a_file_that_fails_leaves_no_half_module(tmp_path: Path):
    path = tmp_path / "half_written.py"
    path.write_text("early = 1\nraise OSError('no\\ndisk')\n")
    with pytest.raises(UsageError, match=r"half_written\.py' cannot be imported: OSError: no disk"):
        load_factory(f"{path}:early")
    assert "half_written" not in sys.modules
    path.write_text("from torch import nn\nmake = nn.ReLU\n")
    assert isinstance(load_model(f"{path}:make"), nn.ReLU)


def test_a_file_is_read_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "edited.py"
    for name in ("ReLU", "GELU"):
        path.write_text(f"from torch import nn\nmake = nn.{name}\n")
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert isinstance(load_model(f"{path}:make"), getattr(nn, name))
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize("name", ["", "x", ":", "x:", ":x", "tests.small"])
def test_names_without_two_parts(name: str):
    with pytest.raises(UsageError, match="is not a factory name"):
        load_factory(name)


def test_weights_in_all_formats(tmp_path: Path):
    source = Small()
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    torch.save(source.state_dict(), tmp_path / "w.pt")
    torch.save({"state_dict": source.state_dict(), "epoch": 3}, tmp_path / "nested.pt")
    torch.save(source, tmp_path / "whole.pt")
    for name in ("w.safetensors", "w.pt", "nested.pt"):
        found = load_model("tests.small:Small", tmp_path / name).state_dict()
        assert all(torch.equal(found[k], v) for k, v in source.state_dict().items()), name
    with pytest.raises(UsageError, match=r"more than tensors \(tests\.small\.Small\)"):
        load_model("tests.small:Small", tmp_path / "whole.pt")
    found = load_model("tests.small:Small", tmp_path / "whole.pt", trust_pickle=True).state_dict()
    assert all(torch.equal(found[k], v) for k, v in source.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.bias": None}, "missing head.bias"),
        ({"extra": torch.zeros(1)}, "not in the model extra"),
        ({"head.bias": torch.zeros(5)}, "of another shape head.bias"),
        ({"head.bias": 3}, "of another shape head.bias"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(change: dict[str, object], message: str, tmp_path: Path):
    model = Small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state: dict[str, object] = {k: torch.ones_like(v) for k, v in model.state_dict().items()}
    state.update(change)
    torch.save({k: v for k, v in state.items() if v is not None}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=message):
        load_weights(model, tmp_path / "w.pt")
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())


def test_data():
    found = list(load_data("tests.small:train"))
    assert torch.equal(found[0][0], train()[0][0])
    with pytest.raises(UsageError, match="returned int, not an iterable"):
        load_data("tests.small:number")


def test_example_inputs():
    first, second = example_inputs(["1x3x8x8", "2X5"])
    assert (first.shape, second.shape) == ((1, 3, 8, 8), (2, 5))
    assert torch.equal(first, example_inputs(["1x3x8x8"])[0]), "the same each time"
    assert not torch.equal(first, example_inputs(["1x3x8x8"], seed=1)[0])
    for bad in ("", "x", "1x", "1x0x3", "1x-3", "1.5x3", "axb"):
        with pytest.raises(UsageError, match="is not an input shape"):
            example_inputs([bad])
