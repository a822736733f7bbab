"""How a person names a model, its inputs and its data on the command line.

A model is ``package.module:factory`` or ``path/to/file.py:factory``; the factory is called with
no arguments and returns an ``nn.Module``. Data are named the same way; the factory returns an
iterable of ``(inputs, labels)`` batches.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from hwprune.errors import UsageError

Result = TypeVar("Result")


#: What torch calls a class or function that it refuses to load from a pickle.
_REFUSED = re.compile(r"(?:GLOBAL|class) ([\w.]+)")


def load_factory(name: str) -> Callable[[], Any]:
    """Resolve ``package.module:factory`` or ``file.py:factory``.

    What the factory raises when it is called becomes a UsageError, too.

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
            hint=f"did you mean {', '.join(near)}?" if near else "name a class or function of that module",
        )

    @functools.wraps(factory)
    def call() -> Any:
        return _run(f"factory '{name}' failed", factory, "it is called without arguments")

    return call


class _Source(SourceFileLoader):
    """Runs the file as it is now: Python's cache takes two versions of one second and size for the same."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"file {path} does not exist", hint="check the part before the colon")
    spec = importlib.util.spec_from_file_location(path.stem, path, loader=_Source(path.stem, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _find_neighbours(path.resolve().parent)
    sys.modules.setdefault(path.stem, module)
    load = functools.partial(spec.loader.exec_module, module)
    try:
        _run(f"'{path}' cannot be imported", load, "it must import on its own: python " + str(path))
    except UsageError:
        if sys.modules.get(path.stem) is module:
            del sys.modules[path.stem]
        raise
    return module


def _load_module(name: str) -> ModuleType:
    _find_neighbours(Path.cwd())
    load = functools.partial(importlib.import_module, name)
    return _run(f"'{name}' cannot be imported", load, "run from the directory of the package, or install it")


def _find_neighbours(directory: Path) -> None:
    """Let a model's module import what lies beside it, as ``python file.py`` does."""
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _run(failure: str, call: Callable[[], Result], hint: str) -> Result:
    """Call the user's code; whatever it raises is theirs to mend, not a crash of ours."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{failure}: {type(error).__name__}: {reason}", hint=hint) from error


def load_model(name: str, weights: Path | None = None, *, trust_pickle: bool = False) -> nn.Module:
    """Build a model from its factory and load its weights, if a file is given.

    ``.safetensors`` files are read as they are; other files by ``torch.load(weights_only=True)``,
    and with full pickle only if ``trust_pickle``.
    """
    model = load_factory(name)()
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"factory '{name}' returned {type(model).__name__}, not an nn.Module",
            hint="name a class, or a function that returns the model",
        )
    if weights is not None:
        load_weights(model, weights, trust_pickle=trust_pickle)
    return model


def load_weights(model: nn.Module, path: Path, *, trust_pickle: bool = False) -> None:
    """Load a state dict into ``model``; every key must fit."""
    if not path.is_file():
        raise UsageError(f"weights file {path} does not exist", hint="check the path")
    state = _read_state(path, trust_pickle)
    own = model.state_dict()
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [k for k in sorted(own.keys() & state.keys()) if own[k].shape != getattr(state[k], "shape", None)]
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
        raise UsageError(
            f"weights file {path} does not fit the model: {'; '.join(parts)}",
            hint="save model.state_dict() of the very model that the factory makes",
        )
    model.load_state_dict(state)


def _read_state(path: Path, trust_pickle: bool) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:
            raise UsageError(
                f"weights file {path} is not a safetensors file: {error}", hint="save the weights again"
            ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except Exception as error:
        refused = _REFUSED.search(str(error))
        if refused:
            raise UsageError(
                f"weights file {path} holds more than tensors ({refused[1]}) "
                "and needs pickle, which can run code",
                hint="save model.state_dict() as safetensors, or pass --trust-pickle if you made the file",
            ) from error
        # torch puts a page of advice before what it found.
        reason = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())[:200]
        raise UsageError(
            f"weights file {path} cannot be read: {type(error).__name__}: {reason}",
            hint="give a .safetensors file, or a state dict written by torch.save",
        ) from error
    if isinstance(state, nn.Module):
        return state.state_dict()
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        return state["state_dict"]
    if not isinstance(state, dict):
        raise UsageError(
            f"weights file {path} holds a {type(state).__name__}, not a state dict",
            hint="save model.state_dict()",
        )
    return state


def load_data(name: str, *, again: bool = False) -> Iterable[Any]:
    """Build a data loader from its factory; ``again``: it will be read more than once.

    Raises
    ------
    UsageError
        The factory fails, or returns no such thing.
    """
    data = load_factory(name)()
    if not isinstance(data, Iterable):
        raise UsageError(
            f"data factory '{name}' returned {type(data).__name__}, not an iterable of batches",
            hint="return a DataLoader or a list of (inputs, labels) pairs",
        )
    if again and isinstance(data, Iterator):
        raise UsageError(
            f"data factory '{name}' returned a {type(data).__name__}, which can be read only once",
            hint="return a DataLoader or a list of batches",
        )
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
