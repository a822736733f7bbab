"""Quantities that are sums of products of group widths: numbers of parameters, bytes of tensors.

A parameter of shape ``[w_a, w_b + w_c, 3, 3]`` has ``9 w_a w_b + 9 w_a w_c`` elements: products of
sums fall apart into products of at most as many widths as a tensor has open dimensions, so the
quantity is exact for every choice and each product is one small table of costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from hwprune.extent import Extent
from hwprune.solve.problem import Concat, Problem, Term

#: A dimension that more groups lie side by side in than this is one axis of its own.
MAX_SUMMANDS = 2
#: Block (None: none) and the sorted axes of a product; an axis that is squared occurs twice.
Monomial = tuple[str | None, tuple[str, ...]]


@dataclass
class Quantity:
    """A polynomial in widths. It grows by :meth:`add`; ``coefficients`` are never negative."""

    coefficients: dict[Monomial, float] = field(default_factory=dict[Monomial, float])

    def add(self, dims: Sequence[Extent], scale: float, block: str | None = None) -> Self:
        """Add ``scale`` times the product of dimensions, which goes if ``block`` does."""
        product: dict[tuple[str, ...], float] = {(): scale}
        for dim in dims:
            factor: dict[tuple[str, ...], float] = {(): float(dim.fixed)} if dim.fixed else {}
            for group, per_unit in dim.terms:
                factor[(group,)] = factor.get((group,), 0.0) + per_unit
            grown: dict[tuple[str, ...], float] = {}
            for axes, value in product.items():
                for more, times in factor.items():
                    key = tuple(sorted((*axes, *more)))
                    grown[key] = grown.get(key, 0.0) + value * times
            product = grown
        for axes, value in product.items():
            self.coefficients[block, axes] = self.coefficients.get((block, axes), 0.0) + value
        return self

    def plus(self, other: Quantity) -> Quantity:
        """The sum of two quantities."""
        total = dict(self.coefficients)
        for key, value in other.coefficients.items():
            total[key] = total.get(key, 0.0) + value
        return Quantity(total)

    def at(self, widths: Mapping[str, int], removed: frozenset[str] = frozenset()) -> float:
        """Its value at widths (of groups, and of axes made by :func:`gathered`)."""
        return math.fsum(
            value * math.prod(widths[axis] for axis in axes)
            for (block, axes), value in self.coefficients.items()
            if block is None or block not in removed
        )

    @property
    def linear(self) -> bool:
        """Whether no two widths are multiplied."""
        return all(len(axes) <= 1 for _, axes in self.coefficients)

    def least(self, levels: Mapping[str, Sequence[int]]) -> float:
        """Least value of a :attr:`linear` quantity, of which coefficients may be negative here."""
        fixed, slopes = 0.0, dict[str, float]()
        for (_, axes), value in self.coefficients.items():
            if axes:
                slopes[axes[0]] = slopes.get(axes[0], 0.0) + value
            else:
                fixed += value
        return fixed + sum(
            slope * (levels[axis][0] if slope > 0 else levels[axis][-1]) for axis, slope in slopes.items()
        )

    def terms(self, name: str, problem: Problem) -> tuple[float, tuple[Term, ...]]:
        """The constant part, and one term per product, for a limit of ``problem``."""
        fixed, costs = 0.0, dict[tuple[str | None, tuple[str, ...]], np.ndarray]()
        for (block, axes), value in self.coefficients.items():
            if not axes and block is None:
                fixed += value
                continue
            distinct = tuple(dict.fromkeys(axes))
            cost = np.full((1,) * len(distinct), value)
            for position, axis in enumerate(distinct):
                levels = np.array(problem.all_levels[axis], np.float64) ** axes.count(axis)
                cost = cost * levels.reshape([-1 if i == position else 1 for i in range(len(distinct))])
            key = (block, distinct)
            costs[key] = costs[key] + cost if key in costs else cost
        return fixed, tuple(
            Term(" * ".join((name, *axes)), axes, cost, block) for (block, axes), cost in costs.items()
        )


def gathered(dims: Sequence[Extent], concats: dict[str, Concat]) -> tuple[Extent, ...]:
    """Dimensions in which sums of many groups are one axis; ``concats`` grows by those not in it.

    Otherwise a weight behind a long concatenation would fall apart into a product per group.
    """
    found: list[Extent] = []
    for dim in dims:
        if len(dim.groups) <= MAX_SUMMANDS:
            found.append(dim)
            continue
        per_unit = {group: sum(k for g, k in dim.terms if g == group) for group in dim.groups}
        scale = math.gcd(*per_unit.values())
        wanted = sorted((group, k // scale) for group, k in per_unit.items())
        known = next((c for c in concats.values() if _parts(c) == wanted), None)
        if known is None:
            groups, channels = zip(*((g, per_unit[g] // scale) for g in per_unit), strict=True)
            known = Concat("+".join(groups), groups, channels)
            concats[known.name] = known
        found.append(Extent(dim.fixed, ((known.name, scale),)))
    return tuple(found)


def _parts(concat: Concat) -> list[tuple[str, int]]:
    total: dict[str, int] = {}
    for group, channels in zip(concat.groups, concat.channels, strict=True):
        total[group] = total.get(group, 0) + channels
    return sorted(total.items())
