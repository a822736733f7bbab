"""The order in which the LASSO takes channels for the next layer's output."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import UsageError
from hwprune.importance.alternation import alternate
from hwprune.importance.batches import Batch
from hwprune.importance.contributions import Contributions, contributions
from hwprune.importance.lasso_path import lasso_path
from hwprune.importance.lasso_search import exact_support, search_penalty
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.rows import Positions
from hwprune.importance.upstream import kept_counts

_log = logging.getLogger(__name__)


@register
class Lasso(Criterion):
    """Largest penalty at which the unit's factor stays in the LASSO of what reads it on the units.

    One factor per unit multiplies what it contributes; the layers' outputs are fitted with an
    intercept, and the penalty of the factors' absolute values falls from where all are zero to none.
    A unit's score is the penalty below which its factor is not zero any more.

    For one width (``keep``) the set is the LASSO's own of exactly that width or, with a ``tolerance``,
    what the authors' search for the penalty ends with; ``alternate`` takes turns with least squares on
    the weights, as the paper defines the problem.

    Parameters
    ----------
    positions
        How many positions of every example are looked at in every layer.
    seed
        Of the positions.
    keep
        One width for every group, a share (0.5) or, in Python, counts by group name; groups that
        are not named stay whole. The units of the LASSO's set of that width then score 1 or more, the others
        less, and both are ordered as without ``keep``.
    alternate
        With ``keep``: after each LASSO the weights are fitted by least squares to the chosen units, and it is
        solved again with these weights, until the set stands still or ten times; the set of
        least error is taken, see :func:`hwprune.importance.alternation.alternate`. That is what the
        paper defines; what it, and the released code by default, does is one pass.
    tolerance
        With ``keep``: how many more units are good enough, a share of the width below 1, else a number.
        0 has exactly the width; above 0 the penalty is searched as the authors do (theirs is 0.1),
        see :func:`hwprune.importance.lasso_search.search_penalty`.

    Notes
    -----
    The best ``n`` units by score are the LASSO's last set of that size, for all ``n`` at once, where
    the sets are nested. They are not where a factor passes through zero and its unit leaves
    for a while: then, between the sizes at which it left and came back, the LASSO's set
    (:func:`hwprune.importance.lasso_path.exact_width`) has it, and ours has the one that stayed. With
    more positions than units this is rare.

    The authors solve layer by layer on the network that is pruned so far, look at a subset of the
    positions and keep up to a tenth more channels than asked for; scores for all widths at once are
    taken on the original. A group that several layers read is chosen by the sum of their
    objectives, each divided by the energy of its outputs (ours; the paper does not cut residual
    streams). What other groups contribute to the same layers stays as it is. A group that no
    convolution and no linear layer reads is scored by the root mean squares of its activations;
    this is logged.
    """

    name: ClassVar[str] = "lasso"
    data_need: ClassVar[DataNeed] = "unlabelled"
    comparability: ClassVar[Comparability] = "within_group"
    paper: ClassVar[str] = (
        "He, Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017"
    )
    formula: ClassVar[str] = (
        "the penalty λ below which β_u ≠ 0 in min ‖y − Σ β_u z_u‖²/2 + λ‖β‖₁; z: contributions"
    )
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = "one forward pass; (C·k²)² sums per reader; C³ per group"

    def __init__(
        self,
        positions: int = 10,
        seed: int = 0,
        keep: float | Mapping[str, int] | None = None,
        *,
        alternate: bool = False,
        tolerance: float = 0.0,
    ) -> None:
        if positions < 1:
            raise UsageError(f"lasso looks at {positions} positions", hint="give 1 or more")
        if isinstance(keep, bool | str):
            raise UsageError(
                f"lasso is to keep {keep!r}", hint="give a share of every group, or counts by group name"
            )
        if keep is None and (alternate or tolerance):
            raise UsageError(
                "lasso alternates, and has a tolerance, for one width, and none was given",
                hint="add keep, such as keep=0.5",
            )
        if not (math.isfinite(tolerance) and tolerance >= 0.0):
            raise UsageError(
                f"lasso has a tolerance of {tolerance}", hint="give a share of the width, such as 0.1, or 0"
            )
        self.positions = Positions(positions, seed)
        self.keep = keep
        self.alternate = alternate
        self.tolerance = tolerance

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        assert data is not None
        widths = {} if self.keep is None else kept_counts(self.keep, deps, self.name)
        found = contributions(
            captured,
            deps,
            data,
            self.positions,
            centred=True,
            criterion=self.name,
            layers=self.alternate,
        )
        scores = dict(found.fallback)
        for name, products in found.products.items():
            path = path_scores(products)
            if name in widths:
                path = _raised(path, self._chosen(name, found, widths[name]))
            scores[name] = torch.from_numpy(path)
        return scores

    def _chosen(self, name: str, found: Contributions, width: int) -> Sequence[int]:
        """The units of a group that stay at one width, or a few more."""
        products = found.products[name]
        if width == len(products):
            return range(width)
        if not self.alternate:
            return self._support(width, products, products.sum(1)).tolist()
        others = found.sampled.get(name)
        if others is not None:
            _log.warning(
                "%s: layers that read group %s are too wide to be refitted: units get a factor each there",
                self.name,
                name,
            )
        turns = alternate(
            found.layers.get(name, ()), len(products), partial(self._support, width), others=others
        )
        _log.info(
            "%s: group %s after %d rounds: error %.4g, after one %.4g",
            self.name,
            name,
            len(turns.rounds),
            turns.error,
            turns.rounds[0][1],
        )
        return turns.support

    def _support(self, width: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if self.tolerance > 0.0:
            return search_penalty(a, b, width, self.tolerance).support
        return exact_support(a, b, width)


def path_scores(products: np.ndarray) -> np.ndarray:
    """Penalty at which each column enters to stay, for the sum of all columns; ``[C, C] -> [C]``."""
    return lasso_path(products, products.sum(1), keep_supports=False).entered


def _raised(scores: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """Scores below 1, and those of the chosen from 1 up; the order among either stays."""
    most = float(scores.max(initial=0.0))
    raised = scores / (2.0 * most) if most > 0.0 else scores.copy()
    raised[list(chosen)] += 1.0
    return raised
