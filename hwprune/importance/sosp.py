"""Second-order structured pruning: saliencies that know of correlations between all units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import CriterionError, UsageError
from hwprune.importance.batches import Batch
from hwprune.importance.curvature import Curvature, greedy_increments
from hwprune.importance.data import batch_loss
from hwprune.importance.examples import MICRO_BATCH, PerExample, split
from hwprune.importance.gatespace import GateSpace, Vectors, twice_differentiable
from hwprune.importance.modes import in_mode
from hwprune.importance.output_curvature import slope_and_directions
from hwprune.importance.places import At
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.silence import reject_silence

_PAPER = (
    "Nonnenmacher et al., SOSP: Efficiently Capturing Global Correlations by Second-Order Structured "
    "Pruning, ICLR 2022"
)


@register
class SospH(Criterion):
    """Slope and curvature of the loss along a unit, the curvature against all other units at once.

    Parameters
    ----------
    at
        What a unit is, as a direction: ``"consumers"``, the weights that read it; ``"producers"``, the
        filters and biases that make it (the paper's space of parameters); ``"gate"``, the scale and
        shift of the BatchNorm on the group's last tap, or what stands there.

    Notes
    -----
    With a factor ``z`` on each unit the direction of the unit times gradient and Hessian are the
    derivatives with respect to ``z``, so one Hessian-vector product with ones, ``H 1``, gives all
    scores. Derivatives are averaged over all batches before absolute values are taken. BatchNorm is
    in evaluation mode; the loss must be a mean over examples where batches have more than 16.
    """

    name: ClassVar[str] = "sosp_h"
    data_need: ClassVar[DataNeed] = "labelled"
    comparability: ClassVar[Comparability] = "global"
    paper: ClassVar[str] = _PAPER
    formula: ClassVar[str] = "|∂L/∂z| + 1/2 |Σ over all units s of ∂²L/∂z∂z_s|, z factors on the units"
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = "one forward pass and two backward passes a batch, at most 16 examples held twice"

    def __init__(self, at: At = "consumers") -> None:
        _check_place(self.name, at)
        self.at: At = at

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, Tensor]:
        assert data is not None
        slopes = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in deps.groups}
        products = {name: value.clone() for name, value in slopes.items()}
        examples = 0
        with in_mode(captured.graph, training=False), torch.enable_grad():
            space = GateSpace(captured, deps, self.at)
            for part in _parts(data):
                with twice_differentiable():
                    value = batch_loss(space.model, part, loss, criterion=self.name)
                first, second = space.hessian_product(value)
                weight = max(part.size, 1)
                _add(slopes, first, weight)
                _add(products, second, weight)
                examples += weight
        scores = {n: (slopes[n].abs() + 0.5 * products[n].abs()) / examples for n in slopes}
        return reject_silence(scores, self.name)


@register
class SospI(Criterion):
    """Slope and Gauss-Newton curvature over all pairs of units, removed greedily.

    Parameters
    ----------
    at
        As for ``sosp_h``; ``"producers"`` takes one pass per example.
    probes
        The curvature of an example has one direction per class. With more classes than this many,
        so many random combinations of them are taken (right on average); None takes every class.
    selection
        ``"greedy"``: units are removed one by one, each time the one by which the quadratic model
        rises least given those that are gone; the score of a unit is that rise, and never less than
        that of one removed before. ``"diagonal"``: each unit alone, ``Q_ss``.
    latency
        What removing a unit of each group saves (any unit of time): the greedy order is by rise over
        saving.
    seed
        Of the random combinations.

    Notes
    -----
    ``Q = H/2 + diag |g|`` with ``H`` the mean over examples of ``J' R J``; ``J`` are the derivatives of
    the class scores with respect to factors on the units, ``R`` the second derivative of the loss in the
    scores. The last unit of a group cannot go; it is scored like the last of all. ``H`` takes 8 bytes
    per pair of units, and above 2 GiB its factors are kept instead.
    """

    name: ClassVar[str] = "sosp_i"
    data_need: ClassVar[DataNeed] = "labelled"
    comparability: ClassVar[Comparability] = "global"
    paper: ClassVar[str] = _PAPER
    formula: ClassVar[str] = "Q_ss + 2 Σ Q_st over units t removed before, Q = 1/2 mean JᵀRJ + diag |∂L/∂z|"
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = (
        "one forward pass and 1 + min(classes, probes) backward passes a batch, 8 bytes per pair of units"
    )

    def __init__(
        self,
        at: At = "consumers",
        *,
        probes: int | None = 16,
        selection: Literal["greedy", "diagonal"] = "greedy",
        latency: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        _check_place(self.name, at)
        if probes is not None and probes < 1:
            raise UsageError(f"probes is {probes}", hint="use 1 or more, or None for all classes")
        if selection not in ("greedy", "diagonal"):
            raise UsageError(f"sosp_i has no selection {selection!r}", hint="use greedy or diagonal")
        self.at: At = at
        self.selection: Literal["greedy", "diagonal"] = selection
        self.probes, self.latency, self.seed = probes, latency, seed

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, Tensor]:
        assert data is not None
        sizes = [g.size for g in deps.groups]
        costs = self._costs(deps)
        curvature = Curvature(sum(sizes))
        slope = np.zeros(sum(sizes))
        examples = 0
        generator = torch.Generator().manual_seed(self.seed)
        with in_mode(captured.graph, training=False), torch.enable_grad():
            per_example = PerExample(GateSpace(captured, deps, self.at))

            def sums(batch: Batch) -> Iterator[Tensor]:
                return slope_and_directions(
                    per_example.space.model,
                    batch,
                    loss,
                    probes=self.probes,
                    generator=generator,
                    criterion=self.name,
                )

            for batch in _parts(data):
                weight = max(batch.size, 1)
                for number, rows in enumerate(per_example.derive(batch, sums)):
                    joined = torch.cat([rows[g.name].detach().cpu() for g in deps.groups], 1).numpy()
                    if number == 0:
                        slope += joined.sum(0, dtype=np.float64)
                    else:
                        curvature.add(joined)
                examples += weight
        scores = self._selected(np.abs(slope) / examples, curvature, examples, costs, sizes)
        parts = torch.from_numpy(scores).split(sizes)
        found = {g.name: part.clone() for g, part in zip(deps.groups, parts, strict=True)}
        return reject_silence(found, self.name)

    def _selected(
        self,
        slope: np.ndarray,
        curvature: Curvature,
        examples: int,
        costs: np.ndarray | None,
        sizes: list[int],
    ) -> np.ndarray:
        diagonal = curvature.diagonal() / examples
        if self.selection == "diagonal":
            return slope + 0.5 * diagonal
        order, rises = greedy_increments(
            slope, lambda unit: curvature.column(unit) / examples, diagonal, cost=costs
        )
        return _never_less(order, rises, sizes)

    def _costs(self, deps: Dependencies) -> np.ndarray | None:
        if self.latency is None:
            return None
        missing = [g.name for g in deps.groups if not self.latency.get(g.name, 0.0) > 0.0]
        if missing:
            raise CriterionError(
                f"latency of sosp_i has no positive number for {', '.join(missing)}",
                hint="give what removing a unit saves, for every group",
            )
        return np.concatenate([np.full(g.size, float(self.latency[g.name])) for g in deps.groups])


def _never_less(order: np.ndarray, rises: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Scores in the order of removal; the last unit of each group counts as the last of all."""
    scores = np.empty_like(rises)
    scores[order] = np.maximum.accumulate(np.maximum(rises[order], 0.0))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    most, start = scores.max(initial=0.0), 0
    for size in sizes:
        scores[start + int(np.argmax(place[start : start + size]))] = most
        start += size
    return scores


def _parts(data: Iterable[Batch]) -> Iterator[Batch]:
    for batch in data:
        yield from split(batch, MICRO_BATCH)


def _add(totals: Vectors, values: Vectors, weight: int) -> None:
    for name, value in values.items():
        totals[name] += weight * value.detach().cpu().double()


def _check_place(criterion: str, at: str) -> None:
    if at not in get_args(At):
        raise UsageError(f"{criterion} has no place {at!r}", hint=f"use {' or '.join(get_args(At))}")
