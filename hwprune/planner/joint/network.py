"""One set of weights for all architectures: channels are sorted once, and the first ones taken."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.func import functional_call  # pyright: ignore[reportUnknownVariableType]

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import of_same_kind
from hwprune.capture.trainable import TrainableGraph
from hwprune.dependency.blocks import Block
from hwprune.dependency.groups import Dependencies
from hwprune.errors import UsageError
from hwprune.planner.joint.graph import Mode, architecture_graph, resize
from hwprune.planner.joint.mapping import Architecture
from hwprune.solve.domains import keep_best
from hwprune.surgery.apply import graph_tensors
from hwprune.surgery.selection import Cuts, cut_tensor, select

#: Architectures whose graphs are kept: both members of a pair often round to one seen before.
KEPT_GRAPHS = 32


@dataclass(frozen=True)
class Variant:
    """The network at one input size; ``blocks`` are those that may be removed."""

    captured: Captured
    deps: Dependencies
    blocks: tuple[Block, ...] = field(default=())

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the first input, None where it is no image."""
        shape = self.captured.example_inputs[0].shape
        return (int(shape[-2]), int(shape[-1])) if len(shape) == 4 else None


class SubNetwork(nn.Module):
    """An architecture on slices of shared weights, or on its own; inputs are resized to its resolution."""

    def __init__(
        self,
        graph: TrainableGraph,
        size: tuple[int, int] | None,
        weights: Mapping[str, Tensor],
        cuts: Cuts,
    ) -> None:
        super().__init__()
        self.graph = graph
        self._size, self._cuts = size, cuts
        held = {n for n, _ in (*graph.named_parameters(remove_duplicate=False), *graph.named_buffers())}
        self._weights = {name: value for name, value in weights.items() if name in held}

    def forward(self, *inputs: Any, **named: Any) -> Any:
        resized = tuple(resize(value, self._size) for value in inputs)
        if not self._weights:
            return self.graph(*resized, **named)
        sliced = {name: self._slice(name, value) for name, value in self._weights.items()}
        return functional_call(self.graph, sliced, resized, named, tie_weights=False)

    def _slice(self, name: str, value: Tensor) -> Tensor:
        cuts = self._cuts.get(name, {})
        part = value
        for dim, kept in cuts.items():
            part = part.index_select(dim, kept.to(value.device))
        # Running statistics in training are those of one architecture: the shared ones stay.
        return part if cuts or isinstance(value, nn.Parameter) else part.clone()


class SharedNetwork:
    """Weights of the unpruned network, trained in many architectures at once.

    An architecture computes what the network that is really cut computes, and its passes cost what
    the smaller network's do.

    Parameters
    ----------
    variants
        The network at each input size, ascending, with the same parameters and groups.
    scores
        Per group one score per unit; of every width those with the largest scores are taken.

    Raises
    ------
    UsageError
        The variants are not of one network.
    """

    def __init__(self, variants: Sequence[Variant], scores: Mapping[str, np.ndarray]) -> None:
        self.variants, self.scores = tuple(variants), dict(scores)
        last = self.variants[-1]
        source = graph_tensors(last.captured.graph)
        self.shapes = {name: tuple(value.shape) for name, value in source.items()}
        for variant in self.variants[:-1]:
            shapes = {n: tuple(t.shape) for n, t in graph_tensors(variant.captured.graph).items()}
            if shapes != self.shapes or variant.deps.dense_widths != last.deps.dense_widths:
                raise UsageError(
                    f"at input size {variant.size} the network has other parameters or groups than at "
                    f"{last.size}",
                    hint="offer resolutions at which the network keeps its layers",
                )
        made: dict[int, Tensor] = {}
        self.weights = {
            n: made.setdefault(id(t), of_same_kind(t, t.detach().clone())) for n, t in source.items()
        }
        #: The whole network on the shared weights: what the optimizer sees.
        self.module = architecture_graph(
            last.captured, last.deps, (), last.deps.dense_widths, (), self.weights, "train"
        )
        self._cache: OrderedDict[tuple[object, Mode], SubNetwork] = OrderedDict()

    def keep(self, architecture: Architecture) -> dict[str, tuple[int, ...]]:
        """Kept units of every group that is still there."""
        widths = architecture.choice.widths
        return {group: keep_best(self.scores[group], width) for group, width in widths.items() if width}

    def sub(self, architecture: Architecture, mode: Mode) -> SubNetwork:
        """An architecture on the shared weights."""
        key = (architecture.key, mode)
        if key not in self._cache:
            cuts = self._cuts(architecture)
            size = self.variants[architecture.variant].size
            graph = self._graph(architecture, self.weights, mode)
            self._cache[key] = SubNetwork(graph, size, self.weights, cuts)
            if len(self._cache) > KEPT_GRAPHS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def cut(self, architecture: Architecture) -> SubNetwork:
        """An architecture with weights of its own, in evaluation mode: to recalibrate and to judge."""
        cuts = self._cuts(architecture)
        own = {n: of_same_kind(t, cut_tensor(t, cuts.get(n, {}))) for n, t in self.weights.items()}
        graph = self._graph(architecture, own, "eval")
        return SubNetwork(graph, self.variants[architecture.variant].size, {}, {})

    def _cuts(self, architecture: Architecture) -> Cuts:
        deps = self.variants[architecture.variant].deps
        return select(deps, self.keep(architecture), self.shapes)

    def _graph(self, architecture: Architecture, tensors: Mapping[str, Tensor], mode: Mode) -> TrainableGraph:
        variant = self.variants[architecture.variant]
        dense, choice = variant.deps.dense_widths, architecture.choice
        widths = {group: choice.widths.get(group) or size for group, size in dense.items()}
        return architecture_graph(
            variant.captured, variant.deps, variant.blocks, widths, choice.removed, tensors, mode
        )
