"""Gates: a factor of one on every unit of every group, whose gradient says what the unit is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.importance.instrument import CopiedGraph
from hwprune.importance.places import At, Place, places_of
from hwprune.importance.weighted import WEIGHTED

#: Per group the factors of its units: ``[size]``, or ``[examples, size]``, one row per example.
Factors = dict[str, Tensor]


def with_gates(
    captured: Captured, deps: Dependencies, at: At = "gate"
) -> tuple[fx.GraphModule, dict[str, nn.Parameter]]:
    """A copy of the graph in which every unit is multiplied by its gate.

    The copy reads the tensors of the captured graph, but not as parameters that are trained: only
    gates require gradients. It has the modes of the captured graph's nodes. With gates of one its
    outputs are those of the captured graph.

    Parameters
    ----------
    captured
        The captured model; not changed.
    deps
        Its groups.
    at
        Where the gates are, see :func:`hwprune.importance.places.places_of`: ``"gate"``, on the last
        tap of every group; ``"consumers"``, where a gate of 0 is the pruned network; ``"producers"``,
        on filters and biases.

    Returns
    -------
    tuple
        The gated graph, and per group its gate: ones ``[size]`` that require a gradient, in the
        gated tensor's dtype and on the model's device. Positions that belong to no unit keep a factor
        of one.

    Raises
    ------
    CriterionError
        A group has no place for its gate.
    """
    graph, factors = gated_graph(captured, deps, places_of(captured, deps, at))
    gates = {name: nn.Parameter(value) for name, value in factors.items()}
    factors.update(gates)
    return graph, gates


def gated_graph(
    captured: Captured, deps: Dependencies, places: Sequence[Place]
) -> tuple[fx.GraphModule, Factors]:
    """A copy of the graph that multiplies places by factors, which are read from the mapping at each run.

    Returns
    -------
    tuple
        The graph and the factors, ones ``[size]``; put others, or rows of them, in their place.
    """
    source = captured.graph
    values = {node.name: node.meta.get("val") for node in source.graph.nodes}
    device = next((p.device for p in source.parameters()), torch.device("cpu"))
    types: dict[str, torch.dtype] = {place.group: values[place.node].dtype for place in reversed(places)}
    factors: Factors = {g.name: torch.ones(g.size, dtype=types[g.name], device=device) for g in deps.groups}
    sizes = {g.name: g.size for g in deps.groups}

    def make(members: Sequence[Place]) -> nn.Module:
        return _Scaled([_Factor(dim, part, factors, sizes, device) for dim, part in _by_dim(members)])

    copied = CopiedGraph(captured)
    copied.send_through([p for p in places if p.kind != "statistics"], make)
    _count_less([p for p in places if p.kind == "statistics"], copied, factors, sizes, device)
    return copied.finished(), factors


def _by_dim(places: Sequence[Place]) -> list[tuple[int, list[Place]]]:
    found: dict[int, list[Place]] = {}
    for place in places:
        found.setdefault(place.dim, []).append(place)
    return list(found.items())


class _Factor:
    """The factors along one dimension of a tensor, from those of the groups that lie on it."""

    def __init__(
        self,
        dim: int,
        places: Sequence[Place],
        factors: Factors,
        sizes: dict[str, int],
        device: torch.device,
    ) -> None:
        self.dim, self.factors = dim, factors
        self.groups = list(dict.fromkeys(place.group for place in places))
        self.same = any(place.kind == "parameter" for place in places)
        starts: dict[str, int] = {}
        total = 0
        for name in self.groups:
            starts[name] = total
            total += sizes[name]
        # Behind the factors of the groups stands the one of positions that belong to nobody.
        index = torch.full((len(places[0].units),), total, dtype=torch.long)
        for place in places:
            index = torch.where(place.units >= 0, place.units + starts[place.group], index)
        self.index = index.to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """Broadcasts against ``x``."""
        parts = [self.factors[name] for name in self.groups]
        spread = torch.cat([*parts, torch.ones_like(parts[0][..., :1])], -1).index_select(-1, self.index)
        shape = [1] * x.ndim
        shape[self.dim] = len(self.index)
        if spread.ndim == 1:
            return spread.view(shape)
        examples, rows = spread.shape[0], x.shape[0]
        if examples > 1 and (self.same or self.dim == 0 or rows % examples):
            raise ValueError(f"a tensor of {rows} rows does not hold {examples} examples one after the other")
        if examples == 1:
            return spread.view(shape)
        shape[0] = rows
        return spread.repeat_interleave(rows // examples, 0).view(shape)


class _Scaled(nn.Module):
    def __init__(self, along: Sequence[_Factor]) -> None:
        super().__init__()
        self._along = tuple(along)

    def forward(self, x: Tensor) -> Tensor:
        for factor in self._along:
            x = x * factor(x)
        return x


class _CountLess(nn.Module):
    def __init__(self, function: Callable[..., Tensor], along: Sequence[_Factor]) -> None:
        super().__init__()
        self._function, self._along = function, tuple(along)

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        weights = self._along[0](x)
        for factor in self._along[1:]:
            weights = weights * factor(x)
        return self._function(weights, x, *args, **kwargs)


def _count_less(
    places: Sequence[Place],
    copied: CopiedGraph,
    factors: Factors,
    sizes: dict[str, int],
    device: torch.device,
) -> None:
    """Put statistics with weights in the place of those that count every channel alike."""
    by_reader: dict[str, list[Place]] = {}
    for place in places:
        for reader in place.readers or ():
            by_reader.setdefault(reader, []).append(place)
    for reader, members in by_reader.items():
        function = WEIGHTED.get(str(copied.twin[reader].target))
        if function is not None:
            along = [_Factor(dim, part, factors, sizes, device) for dim, part in _by_dim(members)]
            copied.replace(reader, _CountLess(function, along))
