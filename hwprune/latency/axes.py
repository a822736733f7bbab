"""On what the cost of a kernel family depends: widths of single groups, or sums of channels.

A kernel behind a concatenation reads the channels of many groups, of which only the total matters.
Its costs are then listed over the totals that can be reached, not over every combination of widths.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from hwprune.errors import UsageError
from hwprune.extent import Extent
from hwprune.latency.kernel import KernelFamily, KernelSpec
from hwprune.latency.shapes import Shape

#: Groups of which every combination of widths is listed, and combinations at most if there are three.
FEW_GROUPS, FEW_COMBINATIONS = 3, 512
#: A family with more costs than this cannot be planned with.
MAX_COSTS = 100_000


@dataclass(frozen=True)
class ChannelSum:
    """Channels of several groups side by side.

    ``channels`` are those per kept unit of each group, without a common factor; equal sums compare
    equal whatever they are called.
    """

    name: str = field(compare=False)
    groups: tuple[str, ...]
    channels: tuple[int, ...]

    def splits(self, domains: Mapping[str, Sequence[int]]) -> dict[int, dict[str, int]]:
        """For every total that can be reached, ascending, widths that reach it."""
        reached: dict[int, tuple[int, ...]] = {0: ()}
        for group, channels in zip(self.groups, self.channels, strict=True):
            further: dict[int, tuple[int, ...]] = {}
            for total, widths in reached.items():
                for width in domains[group]:
                    further.setdefault(total + channels * width, (*widths, width))
            reached = further
        return {t: dict(zip(self.groups, reached[t], strict=True)) for t in sorted(reached)}


@dataclass(frozen=True)
class CostGrid:
    """The axes of a family's costs, and the kernel at each place.

    ``axes`` are names of groups or sums; ``levels`` gives for each axis widths of its groups, level by
    level.
    """

    family: KernelFamily
    axes: tuple[str, ...]
    levels: tuple[tuple[dict[str, int], ...], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Levels of each axis."""
        return tuple(len(levels) for levels in self.levels)

    @cached_property
    def specs(self) -> dict[tuple[int, ...], KernelSpec]:
        """One kernel per place; of those that differ in how a sum is split, any."""
        return {index: self.family.at(widths) for index, widths in self._widths()}

    @cached_property
    def streamed_bytes(self) -> np.ndarray:
        """Bytes of weights beyond what a cache keeps, at each place."""
        found = np.empty(self.sizes)
        for index, spec in self.specs.items():
            found[index] = streamed_bytes(spec)
        return found

    def _widths(self) -> Iterator[tuple[tuple[int, ...], dict[str, int]]]:
        for index in np.ndindex(*self.sizes):
            parts = (levels[i] for levels, i in zip(self.levels, index, strict=True))
            yield index, {group: width for part in parts for group, width in part.items()}


#: Weights of a kernel that cost the same in a network as alone.
RESIDENT_BYTES = 1 << 19


def streamed_bytes(spec: KernelSpec) -> float:
    """Bytes of a kernel's weights that a run of the network reads from far away."""
    weights = sum(4 * math.prod(i.shape) for i in spec.inputs if i.role == "weight")
    return float(max(0, weights - RESIDENT_BYTES))


def cost_grid(
    family: KernelFamily,
    shape: Shape,
    domains: Mapping[str, Sequence[int]],
    sums: dict[ChannelSum, ChannelSum],
) -> CostGrid:
    """The axes of a family; new sums of channels are added to ``sums``.

    Raises
    ------
    UsageError
        There are too many combinations, even over sums.
    """
    groups = family.groups
    combinations = math.prod(len(domains[g]) for g in groups)
    if len(groups) < FEW_GROUPS or (len(groups) == FEW_GROUPS and combinations <= FEW_COMBINATIONS):
        return CostGrid(family, groups, tuple(tuple({g: w} for w in domains[g]) for g in groups))
    extents = shape.independent
    grouped = [set(e.groups) for e in extents]
    apart = all(not (one & other) for one, other in itertools.combinations(grouped, 2))
    axes: list[str] = []
    levels: list[tuple[dict[str, int], ...]] = []
    for extent in extents if apart else [Extent(0, ((g, 1),)) for g in groups]:
        if len(extent.groups) == 1:
            (group,) = extent.groups
            axes.append(group)
            levels.append(tuple({group: w} for w in domains[group]))
            continue
        total = channel_sum(f"channels into {family.name}", extent)
        axes.append(sums.setdefault(total, total).name)
        levels.append(tuple(total.splits(domains).values()))
    size = math.prod(len(each) for each in levels)
    if size > MAX_COSTS:
        raise UsageError(
            f"kernel '{family.name}' depends on the widths of {len(groups)} groups, {size:.1e} combinations",
            hint="a plan needs the cost of each: leave groups out with exclude, or offer fewer widths",
        )
    return CostGrid(family, tuple(axes), tuple(levels))


def channel_sum(name: str, extent: Extent) -> ChannelSum:
    """What varies of an extent; groups that occur twice are taken together."""
    per_unit: dict[str, int] = {}
    for group, channels in extent.terms:
        per_unit[group] = per_unit.get(group, 0) + channels
    factor = math.gcd(*per_unit.values())
    return ChannelSum(name, tuple(per_unit), tuple(c // factor for c in per_unit.values()))
