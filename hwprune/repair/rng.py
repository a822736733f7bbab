"""The state of the random number generators, as tensors."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch


@dataclass(frozen=True)
class RngState:
    """States of Python's, NumPy's and torch's global generators and of a loader's own ones."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch: torch.Tensor
    cuda: tuple[torch.Tensor, ...]
    loader: tuple[torch.Tensor, ...]


def loader_generators(loader: Iterable[Any]) -> list[torch.Generator]:
    """Generators that a ``DataLoader`` (or the loaders of a mix) carries besides the global one."""
    found: list[torch.Generator] = []
    nested = cast("tuple[Iterable[Any], ...]", getattr(loader, "loaders", ()))
    for inner in nested:
        found.extend(loader_generators(inner))
    for owner in (loader, getattr(loader, "sampler", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not known for known in found):
            found.append(generator)
    return found


def rng_state(generators: Iterable[torch.Generator] = (), *, cuda: bool = True) -> RngState:
    """The states now; ``cuda=False`` leaves those of the GPUs out."""
    on_gpu = tuple(torch.cuda.get_rng_state_all()) if cuda and torch.cuda.is_initialized() else ()
    return RngState(
        random.getstate(),
        np.random.get_state(legacy=False),
        torch.get_rng_state(),
        on_gpu,
        tuple(generator.get_state() for generator in generators),
    )


def set_rng_state(state: RngState) -> None:
    """Put the states of the global generators back."""
    random.setstate(state.python)
    np.random.set_state(state.numpy)
    torch.set_rng_state(state.torch)
    if state.cuda:
        torch.cuda.set_rng_state_all(list(state.cuda))


def set_generators(state: RngState, generators: Iterable[torch.Generator]) -> None:
    """Put the states of a loader's own generators back."""
    for generator, value in zip(generators, state.loader, strict=False):
        generator.set_state(value)


def seed_all(seed: int) -> None:
    """Seed the global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def to_tensors(state: RngState) -> dict[str, torch.Tensor]:
    """A state as tensors, for a checkpoint."""
    version, words, gauss = state.python
    # The pending Gaussian is NaN when there is none.
    tensors = {
        "python/words": torch.tensor([version, *words], dtype=torch.int64),
        "python/gauss": torch.tensor(float("nan") if gauss is None else gauss, dtype=torch.float64),
        "numpy/key": torch.from_numpy(np.asarray(state.numpy["state"]["key"]).astype(np.int64)),
        "numpy/rest": torch.tensor(
            [state.numpy["state"]["pos"], state.numpy["has_gauss"]], dtype=torch.int64
        ),
        "numpy/gauss": torch.tensor(state.numpy["gauss"], dtype=torch.float64),
        "torch": state.torch,
    }
    tensors.update({f"cuda/{i}": value for i, value in enumerate(state.cuda)})
    tensors.update({f"loader/{i}": value for i, value in enumerate(state.loader)})
    return tensors


def from_tensors(tensors: dict[str, torch.Tensor]) -> RngState:
    """The inverse of :func:`to_tensors`."""
    version, *words = tensors["python/words"].tolist()
    gauss = float(tensors["python/gauss"])
    pos, has_gauss = tensors["numpy/rest"].tolist()
    numpy_state: dict[str, Any] = {
        "bit_generator": "MT19937",
        "state": {"key": tensors["numpy/key"].numpy().astype(np.uint32), "pos": pos},
        "has_gauss": has_gauss,
        "gauss": float(tensors["numpy/gauss"]),
    }
    return RngState(
        (version, tuple(words), None if gauss != gauss else gauss),
        numpy_state,
        tensors["torch"],
        _numbered(tensors, "cuda"),
        _numbered(tensors, "loader"),
    )


def _numbered(tensors: dict[str, torch.Tensor], prefix: str) -> tuple[torch.Tensor, ...]:
    count = sum(name.startswith(f"{prefix}/") for name in tensors)
    return tuple(tensors[f"{prefix}/{i}"] for i in range(count))
