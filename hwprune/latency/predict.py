"""Latency of a network for any choice of widths, from measured kernels.

The latency is the sum of the network's fused kernels plus a residual measured end to end. For
each kernel family a grid of widths is measured; between grid points the cost is interpolated
linearly, inside the grid only, and known as such, so that a plan can be refined until every
kernel that it uses has been measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from hwprune.errors import TableError
from hwprune.latency.kernel import KernelFamily, KernelSpec
from hwprune.latency.table import LatencyTable

#: Widths measured per group of a family, by the number of groups it depends on.
POINTS_PER_GROUP = {1: 8, 2: 4, 3: 3}


@dataclass(frozen=True)
class FamilyCost:
    """Cost of one kernel family over the widths of its groups.

    ``cost_ns`` has one axis per group; ``measured`` says which entries are rows of the table and
    which are interpolated.
    """

    family: KernelFamily
    cost_ns: np.ndarray
    measured: np.ndarray


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

    def specs(self) -> list[KernelSpec]:
        """Every kernel that the grid needs, without repetition, in execution order."""
        found: dict[str, KernelSpec] = {}
        for family in self.families:
            for spec in self._grid(family).values():
                found.setdefault(spec.canonical(), spec)
        return list(found.values())

    def kernels(self, widths: Mapping[str, int]) -> list[KernelSpec]:
        """The kernels of the network at the given widths, in execution order, with repetition."""
        return [family.at(widths) for family in self.families]

    def missing(self, widths: Mapping[str, int], table: LatencyTable) -> list[KernelSpec]:
        """Kernels of a choice of widths that are not in the table."""
        wanted = {spec.canonical(): spec for spec in self.kernels(widths)}
        return [spec for spec in wanted.values() if table.get(spec) is None]

    def sum_ns(self, widths: Mapping[str, int], table: LatencyTable) -> float:
        """Sum of measured kernels; a kernel that is missing raises ``KernelMissError``."""
        return sum(self._median(spec, table) for spec in self.kernels(widths))

    def disturbed(self, widths: Mapping[str, int], table: LatencyTable) -> int:
        """How many of the network's kernels were timed while the machine was disturbed."""
        rows = [table.get(spec) for spec in self.kernels(widths)]
        return sum(row is not None and row.status == "untrusted" for row in rows)

    def costs(self, table: LatencyTable) -> list[FamilyCost]:
        """Cost of every family over the full domains of its groups.

        Raises
        ------
        TableError
            A grid kernel is missing or failed, and nothing may be extrapolated from the rest.
        """
        return [self._cost(family, table) for family in self.families]

    def _median(self, spec: KernelSpec, table: LatencyTable) -> float:
        return table.lookup(spec, untrusted=self.untrusted).median

    def _axes(self, family: KernelFamily) -> list[tuple[int, ...]]:
        points = POINTS_PER_GROUP.get(len(family.groups), 2)
        return [grid_points(len(self.domains[g]), points) for g in family.groups]

    def _grid(self, family: KernelFamily) -> dict[tuple[int, ...], KernelSpec]:
        return {index: self._spec(family, index) for index in itertools.product(*self._axes(family))}

    def _spec(self, family: KernelFamily, index: Iterable[int]) -> KernelSpec:
        return family.at({g: self.domains[g][i] for g, i in zip(family.groups, index, strict=True)})

    def _cost(self, family: KernelFamily, table: LatencyTable) -> FamilyCost:
        shape = tuple(len(self.domains[g]) for g in family.groups)
        if not shape:
            return FamilyCost(family, np.array(self._median(family.at({}), table)), np.array(True))
        axes = self._axes(family)
        grid = np.empty([len(axis) for axis in axes])
        for place in np.ndindex(*grid.shape):
            index = [axis[i] for axis, i in zip(axes, place, strict=True)]
            grid[place] = self._median(self._spec(family, index), table)
        cost = self._interpolate(family, axes, grid, shape)
        measured = np.zeros(shape, dtype=bool)
        for index in np.ndindex(*shape):
            spec = self._spec(family, index)
            if table.get(spec) is not None:
                cost[index], measured[index] = self._median(spec, table), True
        if not np.isfinite(cost).all() or (cost <= 0).any():
            raise TableError(f"kernel family '{family.name}': the table gives a cost that is not positive")
        return FamilyCost(family, cost, measured)

    def _interpolate(
        self,
        family: KernelFamily,
        axes: Sequence[Sequence[int]],
        grid: np.ndarray,
        shape: tuple[int, ...],
    ) -> np.ndarray:
        """Multilinear in the widths; an axis with a single width is constant."""
        kept = [d for d, size in enumerate(shape) if size > 1]
        if not kept:
            return grid.reshape(shape).copy()
        widths = [np.array(self.domains[g], dtype=float) for g in family.groups]
        interpolator = RegularGridInterpolator(
            [widths[d][list(axes[d])] for d in kept], grid.reshape([grid.shape[d] for d in kept])
        )
        points = np.stack(np.meshgrid(*[widths[d] for d in kept], indexing="ij"), axis=-1)
        return np.asarray(interpolator(points)).reshape(shape)
