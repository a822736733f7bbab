"""How many units of a group the loss can tell apart: ranks of gradient matrices.

Our reading of the abstract of Zhou et al. 2022 (arXiv 2206.03596), whose text could not be read: in gate
space the Hessian of a group is about ``M M' / N``, with ``M[c, n]`` the derivative of the loss of
example ``n`` with respect to a factor on unit ``c``, so small singular values of ``M`` are directions in
which units can be taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import qr

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import CriterionError, UsageError
from hwprune.importance.allocation import Allocation, Floors
from hwprune.importance.batches import Batch, device_of
from hwprune.importance.data import CriterionData, batch_loss
from hwprune.importance.examples import MICRO_BATCH, PerExample, split
from hwprune.importance.gatespace import GateSpace
from hwprune.importance.modes import in_mode
from hwprune.importance.places import At
from hwprune.importance.registry import Loss

_NAME = "gradient_matrix"
#: Shares of energy to which the floors are lowered, one after the other, until they fit.
SHARES = (0.99, 0.95, 0.9, 0.8, 0.7, 0.5)


@dataclass(frozen=True)
class Redundancy:
    """The gradient matrix of one group.

    Attributes
    ----------
    matrix
        ``[size, examples]``, float64: derivative of each example's loss with respect to each unit.
    singular
        Its singular values, descending, ``[min(size, examples)]``.
    """

    matrix: np.ndarray
    singular: np.ndarray

    @staticmethod
    def of(matrix: np.ndarray) -> Redundancy:
        """With the singular values of a matrix ``[size, examples]``."""
        return Redundancy(matrix, np.linalg.svd(matrix, compute_uv=False))

    @property
    def size(self) -> int:
        """Number of units."""
        return self.matrix.shape[0]

    @property
    def examples(self) -> int:
        """Number of examples."""
        return self.matrix.shape[1]

    @property
    def enough(self) -> bool:
        """Whether the examples are two per unit at least: with fewer, they and not the units cap the rank."""
        return self.examples >= 2 * self.size

    def rank(self, threshold: float = 1e-3) -> int:
        """Number of singular values above a share of the largest one."""
        if not self.singular.size or self.singular[0] == 0.0:
            return 0
        return int((self.singular > threshold * self.singular[0]).sum())

    def effective(self, share: float = 0.99) -> int:
        """Least number of directions that hold a share of the energy (squared singular values)."""
        energy = np.cumsum(self.singular**2)
        if not energy.size or energy[-1] == 0.0:
            return 0
        return int(np.searchsorted(energy, share * energy[-1] * (1.0 - 1e-12)) + 1)

    def tail_energy(self, width: int) -> float:
        """About the least rise of the loss at a width, in its units: energy beyond it over ``2 N``."""
        return float((self.singular[width:] ** 2).sum()) / (2 * max(self.examples, 1))

    def order(self) -> np.ndarray:
        """Units, the one to keep longest first.

        By QR with column pivoting: each next unit is the one that the units before it explain least.
        Those that they explain wholly follow by their mean squared derivative.
        """
        found: Any = qr(self.matrix.T, mode="economic", pivoting=True, check_finite=False)
        left: np.ndarray = np.abs(np.diag(found[1]))
        pivots: np.ndarray = found[2]
        tiny = np.finfo(np.float64).eps * max(self.matrix.shape) * (left[0] if left.size else 0.0)
        told = int((left > tiny).sum())
        rest = pivots[told:]
        strength = (self.matrix[rest] ** 2).mean(1)
        return np.concatenate([pivots[:told], rest[np.argsort(-strength, kind="stable")]])


def gradient_redundancy(
    captured: Captured,
    deps: Dependencies,
    data: Iterable[Any],
    *,
    loss: Loss | None = None,
    batches: int = 32,
    at: At = "consumers",
    capped: bool = False,
) -> dict[str, Redundancy]:
    """Gradient matrices of all groups.

    Parameters
    ----------
    captured, deps
        The model, in evaluation mode while it runs, and its groups.
    data, batches
        Labelled batches as criteria take them, and how many of them at most.
    loss
        ``(outputs, targets) -> scalar``, a mean over examples; cross entropy by default.
    at
        Where the factors are, see :func:`hwprune.importance.places.places_of`.
    capped
        Take fewer than two examples per unit, too. Ranks are then at most the number of examples.

    Returns
    -------
    dict
        By group name.

    Raises
    ------
    CriterionError
        Too few examples for a group, or what is wrong with the data.
    """
    loader = CriterionData(
        data, criterion=_NAME, limit=batches, labelled=loss is None, device=device_of(captured.graph)
    )
    found = matrices(captured, deps, loader, loss, at)
    few = [name for name, each in found.items() if not each.enough]
    if few and not capped:
        worst = max(few, key=lambda name: found[name].size)
        raise CriterionError(
            f"{found[worst].examples} examples are too few for the gradient matrix of {worst} with "
            f"{found[worst].size} units: it needs twice as many examples as units",
            hint="give more batches, or capped=True and read ranks as bounds from below",
        )
    return found


def matrices(
    captured: Captured, deps: Dependencies, data: Iterable[Batch], loss: Loss | None, at: At
) -> dict[str, Redundancy]:
    """Gradient matrices of batches that are split and checked already."""
    rows: dict[str, list[np.ndarray]] = {g.name: [] for g in deps.groups}
    with in_mode(captured.graph, training=False), torch.enable_grad():
        examples = PerExample(GateSpace(captured, deps, at))

        def sums(batch: Batch) -> list[torch.Tensor]:
            return [batch_loss(examples.space.model, batch, loss, criterion=_NAME) * max(batch.size, 1)]

        for part in (part for batch in data for part in split(batch, MICRO_BATCH)):
            for found in examples.derive(part, sums):
                for name, value in found.items():
                    rows[name].append(value.detach().cpu().double().numpy())
    return {name: Redundancy.of(np.concatenate(parts).T) for name, parts in rows.items()}


def floors(
    found: Mapping[str, Redundancy], share: float = 0.99, *, least: int = 1
) -> tuple[dict[str, int], float]:
    """Least widths that keep a share of each group's energy, and the prunable share of all units.

    Raises
    ------
    UsageError
        ``share`` is not above 0 and at most 1.
    """
    if not 0.0 < share <= 1.0:
        raise UsageError(f"the share of energy is {share}", hint="use a number above 0 and at most 1")
    widths = {name: max(least, each.effective(share)) for name, each in found.items()}
    total = sum(each.size for each in found.values())
    return widths, 1.0 - sum(widths.values()) / total if total else 0.0


def allocation(
    found: Mapping[str, Redundancy], shares: Sequence[float] = SHARES, *, least: int = 1
) -> Allocation:
    """The layer level of the hierarchy: least widths at falling shares, and what widths are worth.

    A width is worth the energy of that many directions over ``2 N``, so that what is lost in a group is its
    tail energy, in units of the loss: about the least that its rise can be.

    Raises
    ------
    UsageError
        A share is not above 0 and at most 1.
    """
    levels = tuple(Floors(share, floors(found, share, least=least)[0]) for share in shares)
    strengths = {
        name: np.pad(each.singular**2, (0, each.size - len(each.singular))) / (2 * max(each.examples, 1))
        for name, each in found.items()
    }
    return Allocation(levels, strengths)
