"""The layers that read a group, and what they read while data passes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import named_tensors
from hwprune.dependency.groups import ChannelGroup, Dependencies, Run, Tap
from hwprune.importance.batches import Batch
from hwprune.importance.consumers import Consumer, consumers_of
from hwprune.importance.modes import in_mode
from hwprune.importance.shared import shared_taps
from hwprune.importance.values import checked_value, rows_of_units, watch_values

_log = logging.getLogger(__name__)


@dataclass
class Reader:
    """A convolution or linear layer, and the groups whose units it reads.

    ``parts`` says for each group where its units sit in the second dimension of the weight.
    """

    consumer: Consumer
    node: fx.Node
    weight: torch.Tensor
    bias: torch.Tensor | None
    parts: list[tuple[ChannelGroup, tuple[Run, ...]]] = field(
        default_factory=list[tuple[ChannelGroup, tuple[Run, ...]]]
    )


@dataclass(frozen=True)
class Moment:
    """One batch at one reader: what it read, what it wrote, and which batch of how many examples."""

    x: torch.Tensor
    y: torch.Tensor
    batch: int
    examples: int


Visit = Callable[[Reader, Moment], None]


def find_readers(captured: Captured, deps: Dependencies, *, criterion: str) -> list[Reader]:
    """Every layer with a weight that reads units of a group, in the order in which they are computed.

    Products with a weight that are no convolution and no linear layer (transposed convolutions,
    ``x @ w``) are not among them; this is logged.
    """
    weights = named_tensors(captured.graph)
    nodes = {node.name: node for node in captured.graph.graph.nodes}
    found: dict[str, Reader] = {}
    by_weight: dict[str, list[Reader]] = {}
    for c in consumers_of(captured.graph):
        bias = None if c.bias is None else weights[c.bias].detach()
        found[c.node] = Reader(c, nodes[c.node], weights[c.weight].detach(), bias)
        by_weight.setdefault(c.weight, []).append(found[c.node])
    for group in deps.groups:
        members = {(m.param, m.dim): m for m in group.members if m.role == "consumer"}
        for member in members.values():
            readers = by_weight.get(member.param, []) if member.dim == 1 else []
            for reader in readers:
                reader.parts.append((group, member.runs))
            if not readers:
                _log.warning(
                    "%s: %s reads group %s, but is no convolution and no linear layer: it does not count",
                    criterion,
                    member.param,
                    group.name,
                )
    return [reader for reader in found.values() if reader.parts]


def stream_readers(
    captured: Captured, deps: Dependencies, data: Iterable[Batch], visit: Visit, *, criterion: str
) -> dict[str, torch.Tensor]:
    """Run the model on data in evaluation mode and show every reader what it reads and writes.

    Returns
    -------
    dict
        For groups without a reader, the root mean square of each unit at its taps ``[size]``: what the
        documented fallback scores; their names are logged.

    Raises
    ------
    CriterionError
        Such a group has no tap either, values are not finite, or the model does not run on a batch.
    """
    readers = {r.consumer.node: r for r in find_readers(captured, deps, criterion=criterion)}
    read = {group.name for reader in readers.values() for group, _ in reader.parts}
    energy = _TapEnergy(captured, [g for g in deps.groups if g.name not in read], criterion)
    counted = _Counted(data)

    def look(node: fx.Node, args: Sequence[Any], value: Any) -> None:
        energy.look(node, value)
        reader = readers.get(node.name)
        if reader is not None:
            x, y = (checked_value(v, node, criterion) for v in (args[0], value))
            visit(reader, Moment(x, y, counted.number, counted.size))

    with in_mode(captured.graph, training=False):
        watch_values(captured.graph, counted, look, criterion=criterion)
    return energy.scores()


class _Counted:
    """Batches, and which one is out."""

    def __init__(self, data: Iterable[Batch]) -> None:
        self._data = data
        self.number, self.size = -1, 0

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self._data):
            self.number, self.size = number, batch.size
            yield batch


class _TapEnergy:
    """Root mean squares of units where nothing with a weight reads them."""

    def __init__(self, captured: Captured, groups: Sequence[ChannelGroup], criterion: str) -> None:
        self._criterion = criterion
        self._wanted: dict[str, list[tuple[ChannelGroup, Tap]]] = {}
        self._sums: dict[str, torch.Tensor] = {}
        self._count: dict[str, int] = {}
        for group in groups:
            for tap in shared_taps(captured, group, criterion=criterion):
                self._wanted.setdefault(tap.node, []).append((group, tap))
            self._sums[group.name] = torch.zeros(group.size, dtype=torch.float64)
            self._count[group.name] = 0
        if groups:
            _log.warning(
                "%s: root mean squares of the activations stand in for groups that no convolution and no "
                "linear layer reads: %s",
                criterion,
                ", ".join(group.name for group in groups),
            )

    def look(self, node: fx.Node, value: Any) -> None:
        for group, tap in self._wanted.get(node.name, ()):
            rows = rows_of_units(checked_value(value, node, self._criterion), tap.dim, tap.runs, group.size)
            self._sums[group.name] += rows.double().square().sum((0, 2)).cpu()
            self._count[group.name] += rows.shape[0] * rows.shape[2]

    def scores(self) -> dict[str, torch.Tensor]:
        return {name: (total / max(1, self._count[name])).sqrt() for name, total in self._sums.items()}


def by_unit(per_position: torch.Tensor, runs: Iterable[Run], size: int) -> torch.Tensor:
    """Sums ``[..., positions] -> [..., size]`` over the positions of each unit."""
    out = per_position.new_zeros(*per_position.shape[:-1], size)
    for run in runs:
        piece = per_position[..., run.start : run.start + run.count * run.inner]
        out[..., run.unit : run.unit + run.count] += piece.unflatten(-1, (run.count, run.inner)).sum(-1)
    return out
