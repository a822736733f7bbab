"""The batches that a repair without training sees: a bounded number of examples, checked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import torch

from hwprune.errors import RepairError
from hwprune.importance.batches import Batch, split_batch

#: Examples that run through a network at once, so that memory does not depend on the loader's batches.
_AT_ONCE = 64


def collect_batches(loader: Iterable[Any], examples: int, device: torch.device | None) -> list[Batch]:
    """The first examples of a loader, in batches of 64 at most and without their labels.

    Raises
    ------
    RepairError
        The loader is empty, or a batch holds values that are not finite.
    """
    batches: list[Batch] = []
    seen = 0
    for number, raw in enumerate(loader):
        batch = split_batch(raw, device=device)
        for value in (*batch.inputs, *batch.named.values()):
            if isinstance(value, torch.Tensor) and not bool(torch.isfinite(value).all()):
                raise RepairError(
                    f"batch {number} of the data for the repair has values that are not finite",
                    hint="look for NaN or infinite values in the data",
                )
        if batch.size == 0:
            continue
        batches += _pieces(batch, min(batch.size, examples - seen))
        seen += batch.size
        if seen >= examples:
            break
    if not batches:
        raise RepairError("the data loader for the repair is empty", hint="pass a loader with data")
    return batches


def _pieces(batch: Batch, count: int) -> list[Batch]:
    """The first ``count`` examples in pieces of about the same size."""
    size = batch.size
    tensors = [v for v in (*batch.inputs, *batch.named.values()) if isinstance(v, torch.Tensor)]
    if any(tensor.ndim == 0 or tensor.shape[0] != size for tensor in tensors):
        return [Batch(batch.inputs, batch.named, None)]  # not all of it goes by example
    parts = math.ceil(count / _AT_ONCE)
    edges = [count * part // parts for part in range(parts + 1)]

    def cut(value: Any, start: int, stop: int) -> Any:
        return value[start:stop] if isinstance(value, torch.Tensor) else value

    return [
        Batch(
            tuple(cut(value, start, stop) for value in batch.inputs),
            {name: cut(value, start, stop) for name, value in batch.named.items()},
            None,
        )
        for start, stop in itertools.pairwise(edges)
    ]
