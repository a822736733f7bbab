"""Activation times gradient, averaged over a feature map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import ChannelGroup, Dependencies
from hwprune.errors import CriterionError, UsageError
from hwprune.importance.batches import Batch
from hwprune.importance.data import batch_loss
from hwprune.importance.examples import MICRO_BATCH, PerExample, split
from hwprune.importance.gatespace import GateSpace, Vectors
from hwprune.importance.modes import in_mode
from hwprune.importance.observe import with_observers
from hwprune.importance.places import Place, places_of
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.silence import reject_silence
from hwprune.importance.units import unit_of_position

Variant = Literal["paper", "elementwise", "batch"]
#: Sums over the examples of one batch.
_OfBatch = Callable[[Batch], Vectors]


@register
class Taylor2017(Criterion):
    """First-order loss change when a feature map is removed, compared within layers of unit norm.

    Parameters
    ----------
    variant
        Where the absolute value is taken of ``h * dL/dh``. ``"paper"``: of the mean over the map,
        per example, then averaged over the examples. ``"elementwise"``: of every element, then
        averaged (as in later code of the authors). ``"batch"``: last of all, after the mean over
        the map and all examples (as in widely used replicas).
    at
        ``"consumers"``: the map as the layers that read it see it, behind activations, all of them
        together. ``"gate"``: the group's last tap only.
    normalise
        Divide each group's scores by their Euclidean norm.
    latency
        What one unit of a group costs as a share of the dense latency, per group a number or one for
        each unit: ``strength`` times it is taken off the normalised score. See
        :func:`hwprune.latency.steps.step_latency`, which reads it off a latency table.
    strength
        See ``latency``; 1e-3 in the paper, for its unit of operations.

    Notes
    -----
    BatchNorm is in evaluation mode; the loss is a mean over the examples. Scores may be negative with
    ``latency``: such a unit costs more than it is worth.
    """

    name: ClassVar[str] = "taylor2017"
    data_need: ClassVar[DataNeed] = "labelled"
    # The norm is part of the method; dividing by the mean instead would undo the latency term.
    comparability: ClassVar[Comparability] = "global"
    paper: ClassVar[str] = (
        "Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017"
    )
    formula: ClassVar[str] = (
        "mean over examples of |mean over positions of h·∂L/∂h|, over its L2 norm in the group"
    )
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = "one forward and one backward pass a batch"

    def __init__(
        self,
        variant: Variant = "paper",
        *,
        at: Literal["consumers", "gate"] = "consumers",
        normalise: bool = True,
        latency: Mapping[str, float | Sequence[float]] | None = None,
        strength: float = 1e-3,
    ) -> None:
        if variant not in get_args(Variant):
            names = " or ".join(get_args(Variant))
            raise UsageError(f"taylor2017 has no variant {variant!r}", hint=f"use {names}")
        if at not in ("consumers", "gate"):
            raise UsageError(f"taylor2017 has no place {at!r}", hint="use consumers or gate")
        if not math.isfinite(strength) or strength < 0:
            raise UsageError(f"strength is {strength}", hint="give a number of 0 or more, such as 1e-3")
        self.variant: Variant = variant
        self.at: Literal["consumers", "gate"] = at
        self.normalise, self.latency, self.strength = normalise, latency, strength

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, Tensor]:
        assert data is not None
        penalties = self._penalties(deps)
        totals = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in deps.groups}
        examples = 0
        with in_mode(captured.graph, training=False), torch.enable_grad():
            of_batch = self._prepared(captured, deps, loss)
            for batch in data:
                for name, value in of_batch(batch).items():
                    totals[name] += value.cpu().double()
                examples += max(batch.size, 1)
        positions = {g.name: _positions(captured, g) for g in deps.groups}
        scores = {n: t.abs() / (examples * positions[n]) for n, t in totals.items()}
        reject_silence(scores, self.name)
        if self.normalise:
            scores = {name: normalised(value) for name, value in scores.items()}
        return {name: value - self.strength * penalties[name] for name, value in scores.items()}

    def _prepared(self, captured: Captured, deps: Dependencies, loss: Loss | None) -> _OfBatch:
        if self.variant == "elementwise":
            return self._elementwise(captured, deps, loss)
        space = GateSpace(captured, deps, self.at)

        def whole(batch: Batch) -> Tensor:
            return batch_loss(space.model, batch, loss, criterion=self.name) * max(batch.size, 1)

        if self.variant == "batch":
            return lambda batch: space.gradient(whole(batch))
        examples = PerExample(space)

        def of_batch(batch: Batch) -> Vectors:
            total: Vectors = {}
            for part in split(batch, MICRO_BATCH):
                (rows,) = examples.derive(part, lambda some: [whole(some)])
                for name, row in rows.items():
                    term = row.double().abs().sum(0)
                    total[name] = total[name] + term if name in total else term
            return total

        return of_batch

    def _elementwise(self, captured: Captured, deps: Dependencies, loss: Loss | None) -> _OfBatch:
        sizes = {g.name: g.size for g in deps.groups}
        found: Vectors = {}

        def seen(places: Sequence[Place], value: Tensor, gradient: Tensor) -> None:
            products = (value.double() * gradient.double()).abs().cpu()
            for place in places:
                per_position = products.movedim(place.dim, 0).flatten(1).sum(1)
                inside = place.units >= 0
                total = found.setdefault(place.group, torch.zeros(sizes[place.group], dtype=torch.float64))
                total.index_add_(0, place.units[inside], per_position[inside])

        model = with_observers(captured, self._activations(captured, deps), seen)

        def of_batch(batch: Batch) -> Vectors:
            found.clear()
            value = batch_loss(model, batch, loss, criterion=self.name) * max(batch.size, 1)
            if value.requires_grad:
                value.backward()
            return dict(found)

        return of_batch

    def _activations(self, captured: Captured, deps: Dependencies) -> list[Place]:
        """Places on activations; the tap where a group is read by way of a weight that is computed."""
        taps = {p.group: p for p in places_of(captured, deps, "gate")} if self.at == "gate" else {}
        if taps:
            return list(taps.values())
        places = places_of(captured, deps, "consumers")
        in_weights = {p.group for p in places if p.kind == "parameter"}
        chosen = [p for p in places if p.kind == "value" and p.group not in in_weights]
        for group in deps.groups:
            if group.name in in_weights:
                chosen += places_of(captured, _only(deps, group), "gate")
        return chosen

    def _penalties(self, deps: Dependencies) -> dict[str, Tensor]:
        found = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in deps.groups}
        if self.latency is None:
            return found
        missing = sorted(found.keys() - self.latency.keys())
        if missing:
            raise CriterionError(
                f"latency of taylor2017 says nothing of {', '.join(missing)}",
                hint="give the cost of a unit for every group",
            )
        for name, zeros in found.items():
            value = torch.as_tensor(self.latency[name], dtype=torch.float64)
            if value.ndim > 1 or (value.ndim == 1 and value.shape != zeros.shape):
                raise CriterionError(
                    f"latency of taylor2017 has shape {tuple(value.shape)} for group {name} of "
                    f"{len(zeros)} units",
                    hint="give one number, or one for each unit",
                )
            if not bool(torch.isfinite(value).all()):
                raise CriterionError(
                    f"latency of taylor2017 is not finite for group {name}", hint="give shares of a latency"
                )
            found[name] = zeros + value
        return found


def normalised(scores: Tensor) -> Tensor:
    """Divided by their Euclidean norm; zeros stay."""
    norm = scores.norm()
    return scores / norm if norm > 0 else scores


def _only(deps: Dependencies, group: ChannelGroup) -> Dependencies:
    return Dependencies((group,), deps.extents)


def _positions(captured: Captured, group: ChannelGroup) -> Tensor:
    """Elements of one example that a unit has at the group's last tap; 1 where there is none."""
    if not group.taps:
        return torch.ones(group.size, dtype=torch.float64)
    tap = group.taps[-1]
    value = next(n.meta["val"] for n in captured.graph.graph.nodes if n.name == tap.node)
    length = int(value.shape[tap.dim])
    units = unit_of_position(tap.runs, length)
    channels = torch.bincount(units[units >= 0], minlength=group.size).double()
    examples = int(captured.example_inputs[0].shape[0]) if captured.example_inputs[0].ndim else 1
    return (channels * (value.numel() / length / max(examples, 1))).clamp_min(1.0)
