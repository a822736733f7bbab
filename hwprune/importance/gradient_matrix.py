"""Units by how little the gradients of the others explain theirs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import ClassVar, get_args

import numpy as np
import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import CriterionError, UsageError
from hwprune.importance.allocation import Allocation
from hwprune.importance.batches import Batch
from hwprune.importance.places import At
from hwprune.importance.redundancy import SHARES, allocation, floors, matrices
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register

_log = logging.getLogger(__name__)


@register
class GradientMatrix(Criterion):
    """Order in which column-pivoted QR takes the units of a group from its matrix of gradients.

    This is our reading of the abstract: the text of the paper could not be read. The matrix has the
    derivatives of each example's loss with respect to a factor on each unit. Units that do nothing,
    that repeat each other, or that are sums of others make its rank smaller than the number of
    units, and come last.

    With ``floors`` the ranks decide about widths as well, before units are chosen inside them: a plan
    keeps at least as many units of a group as directions hold that share of its energy, and its budget
    is spread so that the energy lost over all groups is least.

    Parameters
    ----------
    at
        Where the factors are: ``"consumers"``, ``"gate"`` or ``"producers"``.
    strict
        Refuse data with fewer than two examples per unit. Otherwise that is logged: no more units than
        there are examples can then be told apart, and the others are ordered by their mean squared
        derivative, below them.
    floors
        Let the method have its say on widths, too, which is its first level: ``True``, or a share of energy
        such as ``0.95``. A plan then keeps at least as many units of each group as directions hold that
        share of the energy (squared singular values) of its matrix, and spreads its budget so that
        the energy that is lost, over all groups, is least, unless widths are measured on held-out
        data. ``True`` begins at 0.99 and takes 0.95, 0.9, 0.8, 0.7 and 0.5 where the budget is out of
        reach; this is logged. A share that is given is not lowered: a budget that cannot be kept
        with it is an error that names the groups. On a frontier, and for several targets, the first share
        holds. Two examples per unit are needed.

    Notes
    -----
    The score of a unit is the number of units that go before it. For the matrices themselves
    see :func:`hwprune.importance.redundancy.gradient_redundancy`. The authors repeat both levels three to
    five times with short training between, as :func:`hwprune.prune_iteratively` does: with ``floors`` the
    matrices are computed anew from all batches before each cut, instead of scores that build up.
    """

    name: ClassVar[str] = "gradient_matrix"
    data_need: ClassVar[DataNeed] = "labelled"
    comparability: ClassVar[Comparability] = "within_group"
    paper: ClassVar[str] = "Zhou et al., arXiv 2206.03596, 2022"
    formula: ClassVar[str] = "place in column-pivoted QR of M[n, c] = ∂L_n/∂z_c, the first pivot highest"
    origin: ClassVar[Origin] = "abstract"
    cost: ClassVar[str] = "one forward and one backward pass a batch; QR of examples x units per group"

    def __init__(self, at: At = "consumers", *, strict: bool = False, floors: bool | float = False) -> None:
        if at not in get_args(At):
            raise UsageError(f"gradient_matrix has no place {at!r}", hint=f"use {' or '.join(get_args(At))}")
        if floors is not True and floors is not False and not 0.0 < floors <= 1.0:
            raise UsageError(
                f"gradient_matrix has floors at a share of {floors}",
                hint="give a share of energy above 0 and at most 1, such as 0.95, or true",
            )
        self.at: At = at
        self.strict = strict
        self._shares = SHARES if floors is True else () if floors is False else (float(floors),)
        self._said: Allocation | None = None

    @property
    def gives_widths(self) -> bool:
        return bool(self._shares)

    @property
    def allocation(self) -> Allocation | None:
        return self._said

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        assert data is not None
        found = matrices(captured, deps, data, loss, self.at)
        few = [name for name, each in found.items() if not each.enough]
        if few:
            said = f"gradient_matrix: fewer than two examples per unit in {', '.join(few)}"
            if self.strict or self._shares:
                way = "no floors" if self._shares else "strict=False"
                raise CriterionError(said, hint=f"give more batches, or {way}")
            _log.warning("%s: ranks are capped by the number of examples", said)
        if not any(each.matrix.any() for each in found.values()):
            raise CriterionError(
                "criterion gradient_matrix finds that the loss depends on no channel",
                hint="the loss must be computed from the model's output, and its gradient must not vanish",
            )
        scores: dict[str, torch.Tensor] = {}
        for name, each in found.items():
            order = each.order()
            places = np.empty(each.size)
            places[order] = np.arange(each.size - 1, -1, -1)
            scores[name] = torch.from_numpy(places)
        if self._shares:
            self._said = allocation(found, self._shares)
            _, prunable = floors(found, self._shares[0])
            _log.info(
                "gradient_matrix: %.0f %% of the energy leave %.0f %% of the units to prune",
                100 * self._shares[0],
                100 * prunable,
            )
        return scores
