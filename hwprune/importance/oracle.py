"""What a unit is really worth: the loss without it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import UsageError
from hwprune.importance.batches import Batch, device_of
from hwprune.importance.data import CriterionData, batch_loss
from hwprune.importance.examples import PerExample, repeated
from hwprune.importance.gatespace import GateSpace, Vectors
from hwprune.importance.modes import in_mode
from hwprune.importance.registry import Loss

_NAME = "oracle"


def true_loss_change(
    captured: Captured,
    deps: Dependencies,
    data: Iterable[Any],
    *,
    loss: Loss | None = None,
    groups: Collection[str] | None = None,
    batches: int = 32,
    rows: int = 256,
) -> dict[str, Tensor]:
    """Change of the loss when one unit is removed, for each unit: the measure of every criterion.

    A unit is removed as surgery does it, from everything that reads it, and nothing is repaired. This
    takes one forward pass over the data for every unit, several of them side by side.

    Parameters
    ----------
    captured, deps
        The model and its groups; it is run in evaluation mode and not changed.
    data
        Batches as criteria take them.
    loss
        ``(outputs, targets) -> scalar``, a mean over examples; cross entropy by default.
    groups
        Names of the groups to look at; all by default.
    batches
        At most so many batches are read.
    rows
        Most examples in one forward pass: so many units are removed side by side, each from its own
        copy of the batch. The memory is that of a batch of this size.

    Returns
    -------
    dict
        Per group float64 ``[size]`` on the CPU: mean loss without the unit minus mean loss. Positive
        where the unit is useful.

    Raises
    ------
    UsageError
        There is no group of such a name.
    CriterionError
        The data is empty, has no labels, or does not fit the model.

    Notes
    -----
    Molchanov et al. (ICLR 2017) call this the oracle and judge criteria by their rank correlation
    with it.
    """
    names = [g.name for g in deps.groups]
    unknown = sorted(set(groups or ()) - set(names))
    if unknown:
        raise UsageError(f"there is no group {', '.join(unknown)}", hint=f"there are {', '.join(names)}")
    chosen = [g for g in deps.groups if groups is None or g.name in groups]
    units = [(g.name, unit) for g in chosen for unit in range(g.size)]
    changes = torch.zeros(len(units), dtype=torch.float64)
    examples = 0
    loader = CriterionData(
        data, criterion=_NAME, limit=batches, labelled=loss is None, device=device_of(captured.graph)
    )
    with in_mode(captured.graph, training=False):
        removal = _Removal(PerExample(GateSpace(captured, deps, "consumers")), loss, rows)
        for batch in loader:
            size = max(batch.size, 1)
            changes += size * removal.changes(batch, units)
            examples += size
    changes /= examples
    found = iter(changes.split([g.size for g in chosen]))
    return {g.name: next(found).clone() for g in chosen}


class _Removal:
    """Losses of one batch without each of some units."""

    def __init__(self, examples: PerExample, loss: Loss | None, rows: int) -> None:
        self._examples, self._space = examples, examples.space
        self._loss, self._rows = loss, rows

    def changes(self, batch: Batch, units: list[tuple[str, int]]) -> Tensor:
        together = batch.size > 0 and self._examples.together(batch)
        side_by_side = max(1, self._rows // batch.size) if together else 1
        with torch.no_grad():
            dense = float(batch_loss(self._space.model, batch, self._loss, criterion=_NAME))
            found: list[float] = []
            for start in range(0, len(units), side_by_side):
                found += self._without(batch, units[start : start + side_by_side])
        return torch.tensor(found, dtype=torch.float64) - dense

    def _without(self, batch: Batch, units: list[tuple[str, int]]) -> list[float]:
        if len(units) == 1:
            with self._space.rows(self._factors(units, 1)):
                return [float(batch_loss(self._space.model, batch, self._loss, criterion=_NAME))]
        size, many = batch.size, repeated(batch, len(units))
        with self._space.rows(self._factors(units, size)):
            outputs = many.run(self._space.model)
        return [
            float(batch_loss(_Given(_part(outputs, number, size)), batch, self._loss, criterion=_NAME))
            for number in range(len(units))
        ]

    def _factors(self, units: list[tuple[str, int]], examples: int) -> Vectors:
        """A row for every example of every copy; the one unit of the copy is 0 in it."""
        factors = {
            name: torch.ones(len(units) * examples, len(gate), dtype=gate.dtype, device=gate.device)
            for name, gate in self._space.gates.items()
        }
        for number, (name, unit) in enumerate(units):
            factors[name][number * examples : (number + 1) * examples, unit] = 0.0
        return factors


class _Given(nn.Module):
    """Answers what it was given."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self._outputs = outputs

    def forward(self, *args: object, **kwargs: object) -> Any:
        return self._outputs


def _part(outputs: Any, number: int, size: int) -> Any:
    def cut(value: Any) -> Any:
        return (
            value[number * size : (number + 1) * size] if isinstance(value, Tensor) and value.ndim else value
        )

    return pytree.tree_map(cut, outputs)
