"""The data of a search: checked, and in part the same whenever it is asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from hwprune.errors import UsageError
from hwprune.repair.rng import loader_generators, rng_state, seed_all, set_generators, set_rng_state


def check_loader(loader: Iterable[Any] | None, what: str, purpose: str) -> Iterable[Any]:
    """The loader, if batches can be drawn from it again and again.

    Parameters
    ----------
    what, purpose
        ``"data"`` and what it is for, for the message.

    Raises
    ------
    UsageError
        It is missing, empty, or can be iterated only once.
    """
    if loader is None:
        raise UsageError(f"the joint solver needs {what}= {purpose}", hint=f"pass a loader as {what}=")
    if isinstance(loader, Iterator):
        raise UsageError(
            f"{what}= can be iterated only once",
            hint="pass a DataLoader or a list of batches, not a generator",
        )
    if not fixed_batches(loader, 1, 0):
        raise UsageError(f"the loader {what}= is empty", hint="pass a loader with data")
    return loader


def fixed_batches(loader: Iterable[Any], count: int, seed: int) -> list[Any]:
    """The first batches of a pass that begins with ``seed``; all random states are put back after it."""
    generators = loader_generators(loader)
    before = rng_state(generators, cuda=False)
    try:
        seed_all(seed)
        for generator in generators:
            generator.manual_seed(seed)
        return list(itertools.islice(loader, count))
    finally:
        set_rng_state(before)
        set_generators(before, generators)
