"""Scores of the last features, carried backwards through absolute weights."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import ChannelGroup, Dependencies, Tap
from hwprune.errors import CriterionError, UsageError
from hwprune.importance.adjoint import AdjointNetwork
from hwprune.importance.batches import Batch
from hwprune.importance.inf_fs import LEAST_EXAMPLES, inf_fs
from hwprune.importance.last_layer import FinalLayer, features_of, final_layers
from hwprune.importance.modes import in_mode
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.shared import shared_taps
from hwprune.importance.units import sum_by_unit
from hwprune.importance.values import bind, checked_value, warn_if_all_alike, watch_values

_log = logging.getLogger(__name__)

FinalScores = Literal["inf_fs", "weights"]


@register
class Nisp(Criterion):
    """Scores of the features that the last layer reads, propagated back by ``s <- |W|' s``.

    Parameters
    ----------
    final
        ``"inf_fs"``: infinite feature selection on the features of the data. ``"weights"``: sums of the
        last layer's absolute weights, for which no data are read. Fewer than three examples, and
        outputs that come from no convolution and no linear layer, get the latter (outputs score
        1); this is logged.
    widths
        How many units each group will keep, where that is known: what goes in later layers then
        passes no score on.

    Notes
    -----
    Rules of the layers: see :class:`hwprune.importance.adjoint.AdjointNetwork`. Those of BatchNorm,
    attention, gates and normalisation across channels are our reading; the paper has convolutions,
    linear layers and pooling. A unit's score is the sum over the positions of its tensor; in a stage
    of residual blocks, over all its sums. Scores of a group sum up to 1.
    """

    name: ClassVar[str] = "nisp"
    data_need: ClassVar[DataNeed] = "unlabelled"
    comparability: ClassVar[Comparability] = "within_group"
    paper: ClassVar[str] = (
        "Yu et al., NISP: Pruning Networks using Neuron Importance Score Propagation, CVPR 2018"
    )
    formula: ClassVar[str] = (
        "s ← |W|ᵀ s back to the unit, from infinite feature selection on the last features"
    )
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = (
        "one forward pass, and one forward and backward pass of one example in double precision"
    )

    def __init__(self, final: FinalScores = "inf_fs", widths: Mapping[str, int] | None = None) -> None:
        if final not in ("inf_fs", "weights"):
            raise UsageError(f"nisp has no final scores {final!r}", hint="use inf_fs or weights")
        self.final: FinalScores = final
        self.widths = dict(widths or {})

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        assert data is not None
        if unknown := self.widths.keys() - {g.name for g in deps.groups}:
            raise UsageError(f"nisp has widths of unknown groups {sorted(unknown)}")
        layers, others = final_layers(captured.graph)
        if others:
            _log.warning(
                "nisp: outputs %s come from no layer with weights: each value scores 1", ", ".join(others)
            )
        seeds = self._final_scores(captured, layers, data) if self.final == "inf_fs" else {}
        back = _Backwards(captured, deps, self.widths)
        return back.run(layers, seeds, others)

    def _final_scores(
        self, captured: Captured, layers: Sequence[FinalLayer], data: Iterable[Batch]
    ) -> dict[str, Tensor]:
        """Per layer ``[m]``: what it reads, ranked; layers without scores are missing."""
        found: dict[str, list[Tensor]] = {layer.node: [] for layer in layers}
        by_node = {layer.node: layer for layer in layers}

        def look(node: fx.Node, args: Sequence[Any], value: Any) -> None:
            if node.name in by_node:
                read = checked_value(args[0], node, self.name)
                found[node.name].append(features_of(by_node[node.name], read).double().cpu())

        with in_mode(captured.graph, training=False):
            watch_values(captured.graph, data, look, criterion=self.name)
        scores: dict[str, Tensor] = {}
        for name, parts in found.items():
            features = torch.cat(parts)
            if len(features) < LEAST_EXAMPLES:
                _log.warning(
                    "nisp: %d examples are too few to rank features; the weights of %s do it",
                    len(features),
                    name,
                )
                continue
            own = inf_fs(features)
            scores[name] = own / own.sum() if own.sum() > 0 else torch.full_like(own, 1.0 / len(own))
        return scores


class _Backwards:
    """The backward run through the linear network, with what it leaves at every group."""

    def __init__(self, captured: Captured, deps: Dependencies, widths: Mapping[str, int]) -> None:
        self._captured = captured
        self._widths = widths
        self._groups = deps.groups
        self._taps: dict[str, list[tuple[ChannelGroup, Tap]]] = {}
        for group in deps.groups:
            for tap in shared_taps(captured, group, criterion="nisp"):
                self._taps.setdefault(tap.node, []).append((group, tap))
        self._scores = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in deps.groups}

    def run(
        self, layers: Sequence[FinalLayer], seeds: Mapping[str, Tensor], others: Sequence[str]
    ) -> dict[str, Tensor]:
        reads = {layer.reads for layer in layers if layer.node in seeds}
        # Without scores of their own, layers pass on 1 from each output: the sums of their weights.
        wanted = reads | set(others) | {layer.node for layer in layers if layer.node not in seeds}
        values: dict[str, Tensor] = {}

        def see(node: fx.Node, value: Tensor) -> Tensor:
            if node.name in self._taps and value.requires_grad:
                # A tensor of its own: nodes that change nothing hand on the one they got.
                value = value.view_as(value)
                for group, tap in self._taps[node.name]:
                    value.register_hook(lambda grad, g=group, t=tap: self._take(grad, g, t))
            if node.name in wanted:
                values[node.name] = value
            return value

        graph = self._captured.graph
        with in_mode(graph, training=False), torch.enable_grad():
            inputs = bind(graph, Batch(self._captured.example_inputs, {}, None))
            AdjointNetwork(graph, see).run(*inputs, enable_io_processing=False)
            total = torch.zeros((), dtype=torch.float64)
            for layer in layers:
                if layer.node in seeds:
                    own = values.get(layer.reads)
                    if own is not None:
                        total = total + (own.movedim(layer.dim, -1) * seeds[layer.node]).sum()
                elif layer.node in values:
                    total = total + values[layer.node].sum()
            for name in others:
                if name in values:
                    total = total + values[name].sum()
            if total.requires_grad:
                total.backward()
        return {g.name: self._normalised(g.name) for g in self._groups}

    def _take(self, grad: Tensor, group: ChannelGroup, tap: Tap) -> Tensor | None:
        """Add a tensor's scores to its group's; what will go passes nothing on."""
        scores = self._scores[group.name]
        scores += sum_by_unit(grad, tap.dim, tap.runs, group.size).cpu()
        width = self._widths.get(group.name, group.size)
        if width >= group.size:
            return None
        gone = torch.argsort(scores, stable=True)[: group.size - width].tolist()
        mask = torch.ones(grad.shape[tap.dim], dtype=grad.dtype)
        for run in tap.runs:
            for unit in gone:
                if run.unit <= unit < run.unit + run.count:
                    at = run.start + (unit - run.unit) * run.inner
                    mask[at : at + run.inner] = 0.0
        return grad * mask.reshape(-1, *[1] * (grad.ndim - tap.dim - 1))

    def _normalised(self, name: str) -> Tensor:
        scores = self._scores[name]
        if not bool(torch.isfinite(scores).all()):
            raise CriterionError(
                f"criterion nisp: scores overflow at group {name}",
                hint="look for NaN or infinite weights; or use another criterion",
            )
        warn_if_all_alike(scores, name, "nisp", "no score arrives")
        total = scores.sum()
        return scores / total if total > 0 else scores
