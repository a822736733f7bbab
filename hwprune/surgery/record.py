"""What ``plan.json`` of a saved model holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Base(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DimensionRecord(_Base):
    """Kept indices of one dimension, as half-open ranges."""

    size: int
    kept: list[tuple[int, int]]


class CutRecord(_Base):
    """What is needed to cut a fresh model.

    ``members`` is parameter to dimension to kept indices; ``keep`` is group to kept units;
    ``inputs`` are shapes and dtypes to capture the graph again (graph form only). ``blocks`` are
    names of blocks that are gone, ``identities`` paths of the modules that were theirs (module form
    only); ``samplers`` is layer to the input channels that it still reads. With a ``submodule``, all
    of them are its own; the weights are those of the whole model.
    """

    form: Literal["module", "graph"]
    members: dict[str, dict[int, DimensionRecord]]
    keep: dict[str, list[tuple[int, int]]]
    inputs: list[tuple[list[int], str]]
    submodule: str | None = None
    inside_heads: list[str] = []
    prune_outputs: bool = False
    blocks: list[str] = []
    identities: list[str] = []
    samplers: dict[str, list[tuple[int, int]]] = {}


class WeightsRecord(_Base):
    """Checksum of the weights file; ``shared`` is alias to stored name of repeated tensors."""

    sha256: str
    shared: dict[str, str]


class SavedRecord(_Base):
    """The whole payload; ``plan`` is the caller's own, ``repairs`` what was done to the weights since."""

    plan: dict[str, Any]
    cut: CutRecord
    weights: WeightsRecord
    repairs: list[dict[str, Any]] = []


def ranges_of(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Rising numbers as half-open ranges."""
    out: list[tuple[int, int]] = []
    for number in numbers:
        if out and out[-1][1] == number:
            out[-1] = (out[-1][0], number + 1)
        else:
            out.append((number, number + 1))
    return out


def numbers_of(ranges: Sequence[tuple[int, int]]) -> list[int]:
    """The inverse of :func:`ranges_of`."""
    return [number for start, stop in ranges for number in range(start, stop)]
