"""How a person names a model, its inputs and its data on the command line.

A model is ``package.module:factory`` or ``path/to/file.py:factory``; the factory is called with
no arguments and returns an ``nn.Module``. Data are named the same way; the factory returns an
iterable of ``(inputs, labels)`` batches.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from hwprune.errors import UsageError


def load_factory(name: str) -> Callable[[], Any]:
    """Resolve ``package.module:factory`` or ``file.py:factory``.

    Raises
    ------
    UsageError
        Naming the file, module or attribute that is missing, with near matches.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise UsageError(
            f"'{name}' is not a factory name", hint="write package.module:factory or file.py:factory"
        )
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        near = difflib.get_close_matches(attribute, [n for n in vars(module) if not n.startswith("_")])
        raise UsageError(
            f"'{place}' has no factory '{attribute}'",
            hint=f"did you mean {', '.join(near)}?" if near else None,
        )
    return factory


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"model file {path} does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    _run(str(path), lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    return module


def _load_module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found: list[ModuleType] = []
    _run(name, lambda: found.append(importlib.import_module(name)))
    return found[0]


def _run(name: str, load: Callable[[], object]) -> None:
    try:
        load()
    except Exception as error:
        raise UsageError(f"'{name}' cannot be imported: {type(error).__name__}: {error}") from error


def load_model(name: str, weights: Path | None = None, *, trust_pickle: bool = False) -> nn.Module:
    """Build a model from its factory and load its weights, if a file is given.

    ``.safetensors`` files are read as they are; other files by ``torch.load(weights_only=True)``,
    and with full pickle only if ``trust_pickle``.
    """
    model = load_factory(name)()
    if not isinstance(model, nn.Module):
        raise UsageError(f"factory '{name}' returned {type(model).__name__}, not an nn.Module")
    if weights is not None:
        load_weights(model, weights, trust_pickle=trust_pickle)
    return model


def load_weights(model: nn.Module, path: Path, *, trust_pickle: bool = False) -> None:
    """Load a state dict into ``model``; every key must fit."""
    if not path.is_file():
        raise UsageError(f"weights file {path} does not exist")
    state = _read_state(path, trust_pickle)
    own = model.state_dict()
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or surplus or wrong:
        parts = [
            f"{label} {', '.join(keys[:4])}{' ...' if len(keys) > 4 else ''}"
            for label, keys in (
                ("missing", missing),
                ("not in the model", surplus),
                ("of another shape", wrong),
            )
            if keys
        ]
        raise UsageError(f"weights file {path} does not fit the model: {'; '.join(parts)}")
    model.load_state_dict(state)


def _read_state(path: Path, trust_pickle: bool) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:
            raise UsageError(f"weights file {path} is not a safetensors file: {error}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except Exception as error:
        if not trust_pickle and (zipfile.is_zipfile(path) or "weights_only" in str(error).lower()):
            raise UsageError(
                f"weights file {path} holds more than tensors and needs pickle, which can run code",
                hint="save model.state_dict() as safetensors, or pass --trust-pickle if you made the file",
            ) from error
        raise UsageError(f"weights file {path} cannot be read: {error}") from error
    if isinstance(state, nn.Module):
        return state.state_dict()
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        return state["state_dict"]
    if not isinstance(state, dict):
        raise UsageError(f"weights file {path} holds a {type(state).__name__}, not a state dict")
    return state


def load_data(name: str) -> Iterable[Any]:
    """Build a data loader from its factory."""
    data = load_factory(name)()
    if not isinstance(data, Iterable):
        raise UsageError(f"data factory '{name}' returned {type(data).__name__}, not an iterable of batches")
    return data


def example_inputs(shapes: list[str], seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Example inputs from shapes such as ``1x3x224x224``, filled with normal random numbers."""
    generator = torch.Generator().manual_seed(seed)
    tensors: list[torch.Tensor] = []
    for text in shapes:
        try:
            size = [int(part) for part in text.lower().split("x")]
        except ValueError:
            size = []
        if not size or min(size) < 1:
            raise UsageError(f"'{text}' is not an input shape", hint="write it as 1x3x224x224")
        tensors.append(torch.randn(size, generator=generator))
    return tuple(tensors)
