"""Layers behind a cut, fitted in order so that they write again what the original wrote."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from hwprune.importance.batches import Batch
from hwprune.repair.places import Norm, Place, Sum, find_places, other_operand, tensor_at
from hwprune.repair.regression import Fit, Ridge
from hwprune.repair.sampler import Fitting, Sampler
from hwprune.repair.walk import Walk

_log = logging.getLogger(__name__)

Told = Callable[[str, int, int], None]


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
    warned = fitting.quiet
    for number, place in enumerate(places):
        told(f"fit {place.consumer.weight}", number, len(places))
        source = nodes[place.node.name]
        fits.append(_fit(place, source, original, pruned, kept, (before, now), batches, fitting))
        # Channels that are scaled are still far from their targets, and their BatchNorm's statistics
        # too: layers behind must be fitted to what they will read.
        if fitting.method == "scales" and place.norm is not None:
            _renormalise(pruned, place, place.norm, now)
        short_of = max(before.short_of, now.short_of)
        if short_of and not warned:
            warned = True
            _log.warning(
                "what lies before %s takes %.2g GB for all examples, too much to keep: the layers before are "
                "run again for every layer; memory_gb=%d (--fit-memory) or fewer examples save time",
                place.consumer.weight,
                short_of / 1e9,
                math.ceil(2 * short_of / 1e9),
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
    sampler = Sampler(place, pruned, kept.get(consumer.weight), fitting, shape[2])
    if fitting.residual and place.sum is not None:
        sampler.others = _others(place, place.sum, original, pruned)
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
        consumer.weight,
        sampler.count,
        shape[2],
        fit.before,
        min(fit.before, fit.after),
        sampler.others is not None,
    )


def _others(place: Place, found: Sum, *graphs: fx.GraphModule) -> tuple[str, str] | None:
    """What the layer's output is added to in the original, and in the pruned network."""
    by_name = [{node.name: node for node in graph.graph.nodes} for graph in graphs]
    before, now = (other_operand(nodes, found, place.node.name) for nodes in by_name)
    return None if before is None or now is None else (before, now)


@torch.no_grad()
def _renormalise(graph: fx.GraphModule, place: Place, norm: Norm, walk: Walk) -> None:
    """Mean and variance of a layer's new outputs into the BatchNorm that reads them."""
    moments = Moments()
    for values in walk.until(place.node.name, after=True):
        moments.add(values[place.node.name])
    tensor_at(graph, norm.mean).copy_(moments.mean)
    tensor_at(graph, norm.variance).copy_(moments.variance)


class Moments:
    """Mean and variance of channels (dimension 1) over batches, in double precision."""

    def __init__(self) -> None:
        self._count = 0
        self._pivot = self._first = self._second = torch.zeros(0, dtype=torch.float64)

    def add(self, output: torch.Tensor) -> None:
        channels = output.double().transpose(0, 1).flatten(1)
        if self._count == 0:
            self._pivot = channels.mean(1)
            self._first = self._second = torch.zeros_like(self._pivot)
        channels = channels - self._pivot[:, None]
        self._first = self._first + channels.sum(1)
        self._second = self._second + channels.square().sum(1)
        self._count += channels.shape[1]

    @property
    def mean(self) -> torch.Tensor:
        return self._pivot + self._first / self._count

    @property
    def variance(self) -> torch.Tensor:
        """Unbiased."""
        spread = self._second - self._first.square() / self._count
        return spread.clamp_min(0.0) / max(1, self._count - 1)


@torch.no_grad()
def _write(graph: fx.GraphModule, place: Place, fit: Fit, before: torch.Tensor) -> None:
    weight = tensor_at(graph, place.consumer.weight)
    weight.copy_(fit.weight.reshape(weight.shape))
    if place.sink is not None:
        tensor = tensor_at(graph, place.sink.name)
        shift = (fit.bias - before).flatten().to(tensor.dtype)
        tensor.add_(shift if place.sink.kind == "bias" else -shift)
