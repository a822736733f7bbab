"""Which kernels to measure: first a coarse grid, then wherever the table knows least.

A kernel that was not measured is priced between measured ones of its shape. How wrong that is, the
measured ones tell: each is predicted from all others. Weighed by the share of the network's time
that the shape takes, these errors add up to the error of the table for this network; more kernels
are measured where they are largest, until the bound is kept or the time is spent.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwprune.errors import KernelMissError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.predict import LatencyModel
from hwprune.latency.prices import Prices
from hwprune.latency.rows import OK
from hwprune.latency.shapes import Shape, candidates
from hwprune.latency.table import LatencyTable

logger = logging.getLogger(__name__)

#: Kernels measured between two looks at the errors.
ROUND = 64
#: Choices of widths over which shares of the time are averaged.
CHOICES = 8
#: Error of a shape of which too few kernels were measured to leave one out.
UNKNOWN_ERROR = 0.2
#: Points below which leaving one out says nothing.
FEW_POINTS = 4

Measure = Callable[[Sequence[KernelSpec]], LatencyTable]
Place = tuple[int, ...]


@dataclass(frozen=True)
class ShapeState:
    """What the table knows of one shape.

    ``error`` is the relative error of an interpolated kernel, ``share`` the share of the network's time,
    ``open`` the kernels on offer that were not measured.
    """

    shape: Shape
    label: str
    share: float
    error: float
    measured: int
    open: Mapping[Place, KernelSpec]

    @property
    def weight(self) -> float:
        """What the shape adds to the error of the network."""
        total = self.measured + len(self.open)
        return self.share * self.error * len(self.open) / max(1, total)


@dataclass(frozen=True)
class Sampling:
    """What adaptive sampling reached. ``error`` and ``bound`` are relative."""

    table: LatencyTable
    bound: float
    error: float
    kernels: int
    rounds: int
    seconds: float
    shapes: tuple[ShapeState, ...]

    @property
    def met(self) -> bool:
        """Whether the error is within the bound."""
        return self.error <= self.bound


class Sampler:
    """Adaptive sampling for one network.

    Parameters
    ----------
    model
        Kernel families over the widths on offer.
    measure
        Brings kernels into the table, skipping those it has, and returns it.
    bound
        Relative error of the network's kernel sum by interpolation, at most.
    budget_s
        Seconds after which no further round begins.
    """

    def __init__(
        self,
        model: LatencyModel,
        measure: Measure,
        *,
        bound: float,
        budget_s: float,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.measure = model, measure
        self.bound, self.budget_s = bound, budget_s
        self._clock = clock
        self._offers: dict[str, dict[Place, KernelSpec]] = {}
        self._shapes: dict[str, Shape] = {}
        for family, shape in zip(model.families, model.shapes, strict=True):
            self._shapes[shape.key] = shape
            self._offers.setdefault(shape.key, {}).update(candidates(family, model.domains))
        random = np.random.default_rng(seed)
        self._choices = [model.dense, *(self._choice(random) for _ in range(CHOICES))]

    def run(self, table: LatencyTable | None = None) -> Sampling:
        """Measure until the bound is kept, the time is spent, or nothing is left to measure."""
        begin = self._clock()
        first = self._first(table)
        table = self.measure(first)
        asked, rounds = len(first), 1
        each_s = (self._clock() - begin) / max(1, len(first))
        while True:
            states = self.states(table)
            error = sum(state.weight for state in states)
            spent = self._clock() - begin
            logger.info("%d kernels, interpolation error %.2f %%, %.0f s", asked, 100 * error, spent)
            wanted = self._next(states)
            if error <= self.bound or not wanted or spent + each_s * len(wanted) > self.budget_s:
                return Sampling(table, self.bound, error, asked, rounds, spent, tuple(states))
            mark = self._clock()
            table = self.measure(wanted)
            each_s = (self._clock() - mark) / len(wanted)
            asked, rounds = asked + len(wanted), rounds + 1

    def states(self, table: LatencyTable) -> list[ShapeState]:
        """What a table knows of each shape, those that add most to the error first."""
        prices = self.model.prices(table)
        shares = self._shares(prices)
        found: list[ShapeState] = []
        for key, offers in self._offers.items():
            known = {place for place, spec in offers.items() if self._is_settled(table, spec)}
            surface = prices.surface(self._shapes[key])
            count = 0 if surface is None else len(surface.values)
            error = surface.error if surface is not None and count >= FEW_POINTS else UNKNOWN_ERROR
            label = next(iter(offers.values())).label()
            left = {place: spec for place, spec in offers.items() if place not in known}
            found.append(ShapeState(self._shapes[key], label, shares[key], error, len(known), left))
        return sorted(found, key=lambda state: -state.weight)

    def _is_settled(self, table: LatencyTable, spec: KernelSpec) -> bool:
        """Whether another sweep would not measure a kernel again for the better: trusted, or failed."""
        row = table.get(spec)
        return row is not None and (row.failure is not None or row.status == OK or self.model.untrusted)

    def _first(self, table: LatencyTable | None) -> list[KernelSpec]:
        """Ends and middles of all widths, but for what an existing table encloses already."""
        prices = None if table is None else self.model.prices(table)
        found: dict[str, KernelSpec] = {}
        for family, shape in zip(self.model.families, self.model.shapes, strict=True):
            surface = None if prices is None else prices.surface(shape)
            for place, spec in _frame(candidates(family, self.model.domains)).items():
                enough = surface is not None and len(surface.values) > FEW_POINTS and surface.encloses(place)
                if not enough:
                    found.setdefault(spec.canonical(), spec)
        return list(found.values())

    def _shares(self, prices: Prices) -> dict[str, float]:
        """Share of each shape in the kernel sum, averaged over a few choices of widths."""
        total = dict.fromkeys(self._shapes, 0.0)
        for widths in self._choices:
            parts = dict.fromkeys(self._shapes, 0.0)
            for family, shape in zip(self.model.families, self.model.shapes, strict=True):
                # Kernels that failed have no price; the sweep has reported them.
                with contextlib.suppress(KernelMissError):
                    parts[shape.key] += prices.of(family.at(widths), shape).ns
            whole = max(sum(parts.values()), 1e-9)
            for key, ns in parts.items():
                total[key] += ns / whole / len(self._choices)
        return total

    def _next(self, states: Sequence[ShapeState]) -> list[KernelSpec]:
        """The next round: shapes by what they add to the error, in them the places furthest away."""
        whole = sum(state.weight for state in states)
        if whole <= 0:
            return []
        chosen: list[KernelSpec] = []
        for state in states:
            count = min(len(state.open), max(1, round(ROUND * state.weight / whole)))
            measured = [place for place in self._offers[state.shape.key] if place not in state.open]
            if state.weight > 0 and len(chosen) < ROUND:
                chosen += [state.open[p] for p in spread_out(list(state.open), measured, count)]
        return chosen[:ROUND]

    def _choice(self, random: np.random.Generator) -> dict[str, int]:
        return {group: int(random.choice(widths)) for group, widths in self.model.domains.items()}


def spread_out(places: Sequence[Place], taken: Sequence[Place], count: int) -> list[Place]:
    """``count`` of ``places``, each as far as can be from ``taken`` and from those chosen before.

    Distances are in doublings of channel counts.
    """
    if not places:
        return []
    spots = np.log2(np.array(places, np.float64))
    gap = np.full(len(places), np.inf)
    for place in taken:
        gap = np.minimum(gap, np.linalg.norm(spots - np.log2(np.array(place, np.float64)), axis=1))
    chosen: list[Place] = []
    for _ in range(min(count, len(places))):
        best = int(np.argmax(gap))
        chosen.append(places[best])
        gap = np.minimum(gap, np.linalg.norm(spots - spots[best], axis=1))
        gap[best] = -1.0
    return chosen


def _frame(offers: Mapping[Place, KernelSpec]) -> dict[Place, KernelSpec]:
    """The ends and the middle of every coordinate, in all combinations that are on offer."""
    if not offers:
        return {}
    places = np.array(list(offers), np.float64).reshape(len(offers), -1)
    keep = np.ones(len(offers), dtype=bool)
    for axis in range(places.shape[1]):
        values = np.unique(places[:, axis])
        keep &= np.isin(places[:, axis], [values[0], values[len(values) // 2], values[-1]])
    corners = {place: spec for (place, spec), kept in zip(offers.items(), keep, strict=True) if kept}
    return corners or dict(offers)
