"""Layers behind a cut, fitted in order so that they write again what the original wrote."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

from hwprune.importance.batches import Batch
from hwprune.importance.gram import Gram
from hwprune.importance.streams import Consumer, Positions, Rows, inputs_at, outputs_at, spots_of
from hwprune.repair.places import Place, find_places, tensor_at
from hwprune.repair.regression import Fit, Ridge, fit_rows, fit_scales, fit_sums
from hwprune.repair.walk import Walk

_log = logging.getLogger(__name__)

Method = Literal["least_squares", "scales"]
Told = Callable[[str, int, int], None]

#: More inputs than this: sums of their products would not fit, the rows themselves are kept.
_WIDEST = 6144
#: Rows kept in that case, and rows summed in the other.
_ROWS_KEPT, _ROWS_SUMMED = 4096, 20_000


@dataclass(frozen=True)
class LayerFit:
    """What became of one layer.

    Attributes
    ----------
    weight
        Its name.
    rows, columns
        Sampled positions, and inputs (``C_in/groups * k*k``) of each.
    before, after
        Mean squared error of its outputs over the variance of the wanted ones.
    corrected
        Whether the target made up for the error of a shortcut.
    """

    weight: str
    rows: int
    columns: int
    before: float
    after: float
    corrected: bool


@dataclass(frozen=True)
class Fitting:
    """How layers are fitted.

    Attributes
    ----------
    method
        ``"least_squares"`` of whole weights, or ``"scales"``: one factor per input channel.
    ridge
        See :class:`hwprune.repair.regression.Ridge`.
    positions
        Positions per example. None: as many as it takes for four rows per column, 10 at least.
    residual
        Correct the last layer of a residual branch for the error of its shortcut.
    every_layer
        Fit layers that lost no input channel, too.
    seed
        Of the positions.
    memory_bytes
        What activations between two layers may take.
    """

    method: Method = "least_squares"
    ridge: Ridge = Ridge()  # noqa: RUF009 - frozen
    positions: int | None = None
    residual: bool = True
    every_layer: bool = False
    seed: int = 0
    memory_bytes: float = 1e9


def reconstruct(
    original: fx.GraphModule,
    pruned: fx.GraphModule,
    kept: Mapping[str, torch.Tensor],
    owned: Mapping[str, torch.Tensor],
    batches: Sequence[Batch],
    fitting: Fitting,
    told: Told,
) -> tuple[LayerFit, ...]:
    """Fit layers of the pruned graph, in place, one after another.

    A layer's inputs are those that it has in the pruned network with the layers before it fitted
    already; its targets are the outputs of the same layer in the original at the same positions
    (He, Zhang and Sun, ICCV 2017).

    Parameters
    ----------
    original, pruned
        The graphs, both in evaluation mode, with the same names of nodes.
    kept
        Weight to the output channels that are left of it; weights with all of them are not in it.
    owned
        Tensors of the pruned model by name, see :func:`hwprune.repair.places.find_places`.
    batches
        Inputs; labels are not used.
    fitting
        How.
    told
        Progress.
    """
    nodes = {node.name: node for node in original.graph.nodes}
    places = [
        place
        for place in find_places(pruned, owned)
        if place.node.name in nodes and (fitting.every_layer or _lost(original, pruned, place))
    ]
    before = Walk(original, batches, fitting.memory_bytes / 2)
    now = Walk(pruned, batches, fitting.memory_bytes / 2)
    fits: list[LayerFit] = []
    for number, place in enumerate(places):
        told(f"fit {place.consumer.weight}", number, len(places))
        fits.append(
            _fit(place, nodes[place.node.name], original, pruned, kept, (before, now), batches, fitting)
        )
    told("fit", len(places), len(places))
    return tuple(fits)


def _lost(original: fx.GraphModule, pruned: fx.GraphModule, place: Place) -> bool:
    name = place.consumer.weight
    return tensor_at(original, name).shape[1] != tensor_at(pruned, name).shape[1]


def _fit(
    place: Place,
    source: fx.Node,
    original: fx.GraphModule,
    pruned: fx.GraphModule,
    kept: Mapping[str, torch.Tensor],
    walks: tuple[Walk, Walk],
    batches: Sequence[Batch],
    fitting: Fitting,
) -> LayerFit:
    consumer = place.consumer
    weight = tensor_at(pruned, consumer.weight)
    shape = (consumer.groups, weight.shape[0] // consumer.groups, weight[0].numel())
    sampler = _Sampler(place, pruned, kept.get(consumer.weight), fitting, shape[2])
    corrects = fitting.residual and place.other is not None and place.other in walks[0].order
    sampler.corrects = corrects and walks[0].order[str(place.other)] < walks[0].order[source.name]
    examples = sum(max(1, batch.size) for batch in batches)
    streams = zip(walks[0].until(source.name, after=True), walks[1].until(place.node.name), strict=True)
    for number, (wanted, values) in enumerate(streams):
        sampler.add(number, max(1, batches[number].size), examples, wanted[source.name], wanted, values)
    bias = torch.zeros(shape[:2], dtype=torch.float64, device=weight.device)
    if consumer.bias is not None:
        bias = tensor_at(pruned, consumer.bias).detach().double().reshape(shape[:2])
    ridge = fitting.ridge
    if place.sink is None:
        ridge = Ridge(ridge.strength, ridge.towards_zero, intercept=False)
    given = weight.detach().reshape(shape)
    fit = sampler.fit(given, bias, ridge, fitting.method)
    if fit.after < fit.before:
        _write(pruned, place, fit, bias)
    else:
        _log.info("%s stays: a fit does not bring it nearer to its targets", consumer.weight)
    _log.info(
        "%s: error %.3g -> %.3g of the variance, %d rows of %d",
        consumer.weight,
        fit.before,
        fit.after,
        sampler.count,
        shape[2],
    )
    return LayerFit(
        consumer.weight, sampler.count, shape[2], fit.before, min(fit.before, fit.after), sampler.corrects
    )


@torch.no_grad()
def _write(graph: fx.GraphModule, place: Place, fit: Fit, before: torch.Tensor) -> None:
    weight = tensor_at(graph, place.consumer.weight)
    weight.copy_(fit.weight.reshape(weight.shape))
    if place.sink is not None:
        tensor = tensor_at(graph, place.sink.name)
        shift = (fit.bias - before).flatten().to(tensor.dtype)
        tensor.add_(shift if place.sink.kind == "bias" else -shift)


class _Sampler:
    """Collects the rows of one layer: as sums, or as they are where it has more inputs than rows."""

    def __init__(
        self, place: Place, pruned: fx.GraphModule, kept: torch.Tensor | None, fitting: Fitting, columns: int
    ) -> None:
        self.corrects = False
        self.count = 0
        self._place, self._kept, self._columns, self._fitting = place, kept, columns, fitting
        self._gram = Gram()
        self._rows: list[Rows] = []
        self._summed: bool | None = None
        self._factor = _output_scale(pruned, place)

    def add(
        self,
        number: int,
        size: int,
        examples: int,
        output: torch.Tensor,
        wanted: Mapping[str, Any],
        values: Mapping[str, Any],
    ) -> None:
        """Take in one batch: ``wanted`` are values of the original, ``values`` of the pruned network."""
        consumer, node = self._place.consumer, self._place.node
        each = self._fitting.positions or max(10, math.ceil(4 * self._columns / examples))
        each = max(1, min(each, _ROWS_SUMMED // examples))
        first = output.shape[0] if output.ndim > 1 else 1
        at = Positions(each, self._fitting.seed).draw(
            node.name, number, first, spots_of(consumer, output), size
        )
        target = self._of(consumer, output, at)
        if self.corrects:
            name = str(self._place.other)
            missing = self._of(consumer, wanted[name], at) - outputs_at(consumer, values[name], at)
            target = target + missing * self._factor
        rows = Rows(
            _precise(inputs_at(consumer, node, values[self._place.input], at, output.shape[2:])),
            _precise(target).unflatten(1, (consumer.groups, -1)),
        )
        if self._summed is None:
            whole = len(rows) * examples / size
            self._summed = self._fitting.method == "scales" or (self._columns <= min(whole, _WIDEST))
        if self._summed:
            self._gram.add(rows)
            self.count += len(rows)
        elif self.count < _ROWS_KEPT:
            self._rows.append(rows)
            self.count += len(rows)

    def fit(self, weight: torch.Tensor, bias: torch.Tensor, ridge: Ridge, method: Method) -> Fit:
        if method == "scales":
            return fit_scales(self._gram, weight, bias, self._place.consumer.kernel, ridge)
        if self._summed:
            return fit_sums(self._gram, weight, bias, ridge)
        rows = Rows(torch.cat([r.x for r in self._rows]), torch.cat([r.y for r in self._rows]))
        return fit_rows(rows, weight, bias, ridge)

    def _of(self, consumer: Consumer, whole: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Rows of a tensor of the original, in the channels that are left."""
        rows = outputs_at(consumer, whole, at)
        return rows if self._kept is None else rows[:, self._kept.to(rows.device)]


def _precise(rows: torch.Tensor) -> torch.Tensor:
    """Sums of products in half precision would be worth nothing."""
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def _output_scale(graph: fx.GraphModule, place: Place) -> torch.Tensor | float:
    """What a difference behind the BatchNorm is in front of it; 0 where nothing gets through."""
    norm = place.norm
    if norm is None:
        return 1.0
    spread = (tensor_at(graph, norm.variance).detach() + norm.eps).sqrt()
    if norm.scale is None:
        return spread
    scale = tensor_at(graph, norm.scale).detach()
    return torch.where(scale.abs() > 1e-6 * spread, spread / scale, 0.0)
