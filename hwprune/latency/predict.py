"""Latency of a network for any choice of widths, from measured kernels.

The latency is the sum of the network's fused kernels plus a residual measured end to end. Of each
kernel family some widths are measured; between them the cost comes from a surface through all
measured kernels of the same shape (:mod:`hwprune.latency.surface`), never beyond them, and is
known as such, so that a plan can be refined until every kernel that it uses has been measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hwprune.errors import TableError
from hwprune.latency.axes import ChannelSum, CostGrid, cost_grid, streamed_bytes
from hwprune.latency.kernel import KernelFamily, KernelSpec
from hwprune.latency.prices import Prices
from hwprune.latency.shapes import Shape
from hwprune.latency.table import LatencyTable

#: Widths measured at first, by the number of independent coordinates of a family.
POINTS_PER_CLASS = {1: 8, 2: 4, 3: 3}
#: Widths measured at first of groups that only change a sum of channels.
POINTS_TOGETHER = 3
#: Measured kernels of a shape below which its grid is measured, though they enclose it.
FEW_POINTS = 4


@dataclass(frozen=True)
class FamilyCost:
    """Cost of one kernel family over the widths of its groups.

    Attributes
    ----------
    axes
        Names of groups, or of the model's :attr:`LatencyModel.sums`.
    cost_ns
        One axis for each, over the widths of the group or the totals of the sum, ascending.
    measured
        Which entries are rows of the table; the others are interpolated.
    streamed_bytes
        Bytes of weights that are read from far away, at the same places.
    """

    family: KernelFamily
    axes: tuple[str, ...]
    cost_ns: np.ndarray
    measured: np.ndarray
    streamed_bytes: np.ndarray


@dataclass(frozen=True)
class KernelSum:
    """Sum of a network's kernels.

    Attributes
    ----------
    ns
        Nanoseconds.
    deviation_ns
        Standard deviation of ``ns``; errors of kernels of the same shape are taken to be the same
        error, those of different shapes to be independent.
    kernels
        Kernel calls.
    streamed_bytes
        Bytes of weights beyond what a cache keeps of each kernel.
    interpolated
        Share (0..1) of ``ns`` that is not from rows of the table.
    """

    ns: float
    deviation_ns: float
    kernels: int
    streamed_bytes: float
    interpolated: float


def grid_points(size: int, points: int) -> tuple[int, ...]:
    """At most ``points`` indices into a domain of ``size`` widths, both ends included."""
    if size <= points:
        return tuple(range(size))
    return tuple(sorted({round(i * (size - 1) / (points - 1)) for i in range(points)}))


class LatencyModel:
    """All kernel families of a network over the widths that the solver may choose.

    Parameters
    ----------
    families
        One per kernel of the network, in execution order.
    domains
        For every group the widths (units, ascending) that may be chosen.
    untrusted
        Also use rows that were timed while the machine was disturbed.
    """

    def __init__(
        self,
        families: Sequence[KernelFamily],
        domains: Mapping[str, Sequence[int]],
        *,
        untrusted: bool = False,
    ) -> None:
        self.untrusted = untrusted
        self.families = tuple(families)
        self.domains = {group: tuple(widths) for group, widths in domains.items()}
        self._own = tuple(Shape(family) for family in self.families)
        known = {shape.key: shape for shape in reversed(self._own)}
        #: Shape of each family; families that share one have the same object.
        self.shapes = tuple(known[shape.key] for shape in self._own)
        #: Groups of each family, those together that only change a sum of channels.
        self.classes = tuple(shape.classes for shape in self._own)
        self._prices: Prices | None = None

    @property
    def dense(self) -> dict[str, int]:
        """Every group at its largest width."""
        return {group: widths[-1] for group, widths in self.domains.items()}

    def specs(self) -> list[KernelSpec]:
        """Every kernel of a first coarse grid, without repetition, in execution order."""
        found: dict[str, KernelSpec] = {}
        for family, classes in zip(self.families, self.classes, strict=True):
            for spec in self._grid(family, classes):
                found.setdefault(spec.canonical(), spec)
        return list(found.values())

    def kernels(self, widths: Mapping[str, int]) -> list[KernelSpec]:
        """The kernels of the network at the given widths, in execution order, with repetition."""
        return [family.at(widths) for family in self.families]

    def missing(self, widths: Mapping[str, int], table: LatencyTable) -> list[KernelSpec]:
        """Kernels of a choice of widths that no row of the table prices."""
        prices = self.prices(table)
        wanted: dict[str, KernelSpec] = {}
        for spec, shape in zip(self.kernels(widths), self.shapes, strict=True):
            if not prices.has(spec, shape):
                wanted.setdefault(spec.canonical(), spec)
        return list(wanted.values())

    def unpriced(self, table: LatencyTable) -> list[KernelSpec]:
        """Kernels of the coarse grid that the table neither has nor encloses by what it has."""
        prices = self.prices(table)
        found: dict[str, KernelSpec] = {}
        for family, classes, shape in zip(self.families, self.classes, self.shapes, strict=True):
            surface = prices.surface(shape)
            known = surface is not None and len(surface.values) > FEW_POINTS
            for spec in self._grid(family, classes):
                place = shape.coordinates(spec)
                enclosed = known and surface is not None and place is not None and surface.encloses(place)
                if not enclosed and not prices.has(spec, shape):
                    found.setdefault(spec.canonical(), spec)
        return list(found.values())

    def sum_ns(self, widths: Mapping[str, int], table: LatencyTable) -> float:
        """Sum of measured kernels; a kernel that is missing raises ``KernelMissError``."""
        return self.sum_of(self.kernels(widths), table)

    def sum_of(self, specs: Sequence[KernelSpec], table: LatencyTable) -> float:
        """Sum of measured kernels of this network, whole or in part; a miss raises ``KernelMissError``."""
        prices, shapes = self.prices(table), {id(shape): shape for shape in self.shapes}
        total = 0.0
        for spec in specs:
            shape = next((s for s in shapes.values() if s.is_joined and s.coordinates(spec)), None)
            if shape is not None and prices.has(spec, shape):
                total += prices.of(spec, shape).ns
            else:
                total += table.lookup(spec, untrusted=self.untrusted).median
        return total

    def predict(self, widths: Mapping[str, int], table: LatencyTable) -> KernelSum:
        """Sum of kernels, interpolated between measured ones where a kernel has no row.

        Raises
        ------
        KernelMissError
            A kernel is not in the table and does not lie between kernels that are.
        """
        prices = self.prices(table)
        total = interpolated = 0.0
        deviations: dict[str, float] = {}
        for spec, shape in zip(self.kernels(widths), self.shapes, strict=True):
            price = prices.of(spec, shape)
            total += price.ns
            interpolated += 0.0 if price.measured else price.ns
            deviations[shape.key] = deviations.get(shape.key, 0.0) + price.deviation_ns
        return KernelSum(
            total,
            math.sqrt(sum(d * d for d in deviations.values())),
            len(self.families),
            self.streamed_bytes(widths),
            interpolated / total if total else 0.0,
        )

    def streamed_bytes(self, widths: Mapping[str, int]) -> float:
        """Bytes of weights that are read from far away, once a run of the network."""
        return sum(streamed_bytes(spec) for spec in self.kernels(widths))

    def disturbed(self, widths: Mapping[str, int], table: LatencyTable) -> int:
        """How many of the network's kernels were timed while the machine was disturbed."""
        rows = [table.get(spec) for spec in self.kernels(widths)]
        return sum(row is not None and row.status == "untrusted" for row in rows)

    @property
    def sums(self) -> tuple[ChannelSum, ...]:
        """Sums of channels that costs depend on, besides the widths of single groups."""
        return self._grids[1]

    def costs(self, table: LatencyTable) -> list[FamilyCost]:
        """Cost of every family over the full domains of its groups.

        Raises
        ------
        KernelMissError
            A grid kernel is missing or failed, and nothing may be extrapolated from the rest.
        UsageError
            A kernel depends on the widths of too many groups in too many ways.
        """
        prices = self.prices(table)
        return [self._cost(g, s, prices) for g, s in zip(self._grids[0], self.shapes, strict=True)]

    def prices(self, table: LatencyTable) -> Prices:
        """The table as prices; those of the last table asked for are kept."""
        if self._prices is None or self._prices.table is not table:
            self._prices = Prices(table, untrusted=self.untrusted)
        return self._prices

    @cached_property
    def _grids(self) -> tuple[tuple[CostGrid, ...], tuple[ChannelSum, ...]]:
        sums: dict[ChannelSum, ChannelSum] = {}
        pairs = zip(self.families, self._own, strict=True)
        return tuple(cost_grid(family, own, self.domains, sums) for family, own in pairs), tuple(sums)

    def _grid(self, family: KernelFamily, classes: Sequence[tuple[str, ...]]) -> list[KernelSpec]:
        points = POINTS_PER_CLASS.get(len(classes), 2)
        axes: list[list[dict[str, int]]] = []
        for groups in classes:
            count = len(self.domains[groups[0]]) if len(groups) == 1 else POINTS_TOGETHER
            axes.append(
                [
                    {g: self._level(g, i, count) for g in groups}
                    for i in grid_points(count, min(points, count) if len(groups) > 1 else points)
                ]
            )
        chosen = ({g: w for part in parts for g, w in part.items()} for parts in itertools.product(*axes))
        return [family.at(widths) for widths in chosen]

    def _level(self, group: str, level: int, count: int) -> int:
        own = self.domains[group]
        return own[round(level * (len(own) - 1) / max(1, count - 1))]

    def _cost(self, grid: CostGrid, shape: Shape, prices: Prices) -> FamilyCost:
        found = prices.of_all(grid.specs, shape)
        cost, measured = np.empty(grid.sizes), np.zeros(grid.sizes, dtype=bool)
        for index, price in found.items():
            cost[index], measured[index] = price.ns, price.measured
        if not np.isfinite(cost).all() or (cost <= 0).any():
            name = grid.family.name
            raise TableError(f"kernel family '{name}': the table gives a cost that is not positive")
        return FamilyCost(grid.family, grid.axes, cost, measured, grid.streamed_bytes)
