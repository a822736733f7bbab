"""Importance from the distribution of activations that BatchNorm parameters imply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import fx

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import named_tensors
from hwprune.dependency.groups import ChannelGroup, Dependencies
from hwprune.errors import UsageError
from hwprune.importance.batches import Batch
from hwprune.importance.batchnorm import norms_for_the_others
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.responses import Response, Responses, channels_of, is_batchnorm, responses_of
from hwprune.importance.units import sum_by_unit, unit_of_position

Moment = Literal["mean", "second"]


@register
class BatchNormDistribution(Criterion):
    """What a unit hands on in the mean by its BatchNorm parameters, times the weights that read it.

    Our reading of the abstract, which says that the distribution of the activations is inferred from
    the parameters of the BatchNorms; the paper's own expression was not at hand. A BatchNorm's output
    is taken for ``N(beta, gamma^2)``, and the activation behind it is found in the graph: closed forms
    for ReLU and for none, quadrature for the others (SiLU, GELU, hardswish, ReLU6, sigmoid, ...).

    Parameters
    ----------
    moment
        ``"mean"``: ``E|a|``. ``"second"``: ``sqrt(E[a^2])``.
    weighted
        Multiply by the sum of the absolute weights with which the unit's consumers read it. Without,
        the score is what the abstract says and no more; but a channel whose values are scaled up and
        whose readers are scaled down means the same to the network, and has the same score only with
        these weights. They make scores of different groups comparable, too.

    Notes
    -----
    The activation is that in the tensors in which the group is read: their mean with ``weighted``, else
    their sum. Behind a residual sum the values are ``N(sum of means, sum of variances)`` of its
    operands, before the activation that follows: they are taken for independent, identity shortcuts
    included, which they are not quite. What a BatchNorm or a depthwise convolution of the group itself
    reads does not count: what they hand on does. Gates (squeeze and excite) and pooling are passed
    without a change. A group that no weights read (an output of the model) has the unweighted score.

    Groups without a BatchNorm get L2 filter norms, scaled so that their median equals that of all
    scores; this is logged. Scales of LayerNorm, GroupNorm and InstanceNorm say nothing of this kind
    (they normalise over channels, or example by example), so a transformer has no score here.
    """

    name: ClassVar[str] = "bn_distribution"
    data_need: ClassVar[DataNeed] = "none"
    comparability: ClassVar[Comparability] = "global"
    paper: ClassVar[str] = "Oh et al., Batch Normalization Tells You Which Filter is Important, WACV 2022"
    formula: ClassVar[str] = "E|act(x)| · Σ|w| over the weights that read the unit, with x ~ N(β, γ²)"
    origin: ClassVar[Origin] = "abstract"
    cost: ClassVar[str] = "reads the weights once"

    def __init__(self, moment: Moment = "mean", weighted: bool = True) -> None:
        if moment not in ("mean", "second"):
            raise UsageError(f"bn_distribution has no moment {moment!r}", hint="use mean or second")
        self.moment: Moment = moment
        self.weighted = weighted

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        parameters = named_tensors(captured.graph)
        known = responses_of(captured)
        reach = _Reach(captured, known)
        scores: dict[str, torch.Tensor] = {}
        for group in deps.groups:
            found = self._score(group, reach, parameters)
            if found is not None:
                scores[group.name] = found
        return norms_for_the_others(scores, deps, parameters, self.name)

    def _score(
        self, group: ChannelGroup, reach: _Reach, parameters: Mapping[str, torch.Tensor]
    ) -> torch.Tensor | None:
        """None where nothing is known of a unit of the group."""
        total = torch.zeros(group.size, dtype=torch.float64)
        count = torch.zeros(group.size, dtype=torch.float64)
        for response, units in reach.read(group):
            values = response.absolute if self.moment == "mean" else response.root_mean_square
            known = (units >= 0) & response.known
            total.index_add_(0, units[known], values[known])
            count.index_add_(0, units[known], torch.ones_like(values[known]))
        if not bool((count > 0).all()):
            return None
        readers = {(m.param, m.dim): m for m in group.members if m.role == "consumer"}
        if not self.weighted or not readers:
            return total
        weights = [
            sum_by_unit(parameters[m.param].detach().abs(), m.dim, m.runs, group.size).cpu()
            for m in readers.values()
        ]
        return total / count * torch.stack(weights).sum(0)


@dataclass(frozen=True)
class _Reach:
    """Where the channels of a group go from its BatchNorms on."""

    captured: Captured
    known: Responses

    def read(self, group: ChannelGroup) -> Iterator[tuple[Response, torch.Tensor]]:
        """Tensors that leave the group's own layers: responses, and the unit of every channel or -1."""
        units = self._units(group)
        # A layer from the group to itself is a consumer, though its bias is channelwise.
        own = {m.node for m in group.members if m.role == "channelwise"}
        own -= {m.node for m in group.members if m.role == "consumer"}
        # A tensor that is only passed on (pooled, gated) has the response of the one before, and counts once.
        read: dict[int, fx.Node] = {}
        inside: dict[int, fx.Node] = {}
        for node in units:
            others = [user for user in node.users if user not in units]
            if any(user.name not in own for user in others):
                read[id(self.known[node])] = node
            elif others:
                inside[id(self.known[node])] = node
        for node in (read or inside).values():
            yield self.known[node], units[node]

    def _units(self, group: ChannelGroup) -> dict[fx.Node, torch.Tensor]:
        """Tensors that carry the group, reached from its BatchNorms without leaving known operators."""
        runs = {m.node: m.runs for m in group.members if m.role == "channelwise"}
        units: dict[fx.Node, torch.Tensor] = {}
        for node, response in self.known.items():
            count = len(response.mean)
            if is_batchnorm(node):
                if node.name in runs:
                    units[node] = unit_of_position(runs[node.name], count)
                continue
            if str(node.target) == "aten.cat.default":
                carried = self._concatenated(node, units)
            else:
                carried = [units[n] for n in node.all_input_nodes if n in units and len(units[n]) == count]
            if carried:
                units[node] = torch.stack(carried).max(0).values
        return units

    def _concatenated(self, node: fx.Node, units: dict[fx.Node, torch.Tensor]) -> list[torch.Tensor]:
        tensors = [each for each in node.all_input_nodes if each in units]
        if not tensors:
            return []
        given = node.args[0]
        assert isinstance(given, list | tuple)
        parts: list[torch.Tensor] = []
        for each in given:
            assert isinstance(each, fx.Node)
            parts.append(units.get(each, torch.full((channels_of(each),), -1)))
        return [torch.cat(parts)]
