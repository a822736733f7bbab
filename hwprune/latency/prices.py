"""What kernels cost: a row of the table where there is one, else a place between measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hwprune.errors import KernelMissError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.rows import OK
from hwprune.latency.shapes import Shape
from hwprune.latency.surface import Surface
from hwprune.latency.table import LatencyTable

#: Half of a 95 % interval of a normal distribution, in standard deviations.
HALF_INTERVAL = 1.96


@dataclass(frozen=True)
class Price:
    """Cost of a kernel and its standard deviation, nanoseconds."""

    ns: float
    deviation_ns: float
    measured: bool


class Prices:
    """A table, seen as costs of the kernels of some shapes.

    Parameters
    ----------
    table
        Measured kernels. All of a shape count, whichever network they were measured for.
    untrusted
        Also use rows that were timed while the machine was disturbed.
    """

    def __init__(self, table: LatencyTable, *, untrusted: bool = False) -> None:
        self.table = table
        self._untrusted = untrusted
        self._by_chain: dict[str, list[tuple[KernelSpec, float]]] = {}
        self._surfaces: dict[str, Surface | None] = {}

    def of(self, spec: KernelSpec, shape: Shape) -> Price:
        """Price of one kernel.

        Raises
        ------
        KernelMissError
            Its row failed or is untrusted, or it has none and does not lie between measured kernels.
        """
        return self.of_all({(): spec}, shape)[()]

    def has(self, spec: KernelSpec, shape: Shape) -> bool:
        """Whether a row that may be relied on prices a kernel: its own, or of one like it.

        A kernel that is known to fail counts: measuring it again would not give it a price.
        """
        row = self.table.get(spec)
        if row is not None and (row.failure is not None or row.status == OK or self._untrusted):
            return True
        if not shape.is_joined:
            return False
        surface, place = self.surface(shape), shape.coordinates(spec)
        return surface is not None and place is not None and place in surface.known

    def of_all(
        self, specs: Mapping[tuple[int, ...], KernelSpec], shape: Shape
    ) -> dict[tuple[int, ...], Price]:
        """Prices of kernels of one shape, by the caller's keys."""
        if shape.is_joined:
            return self._of_joined(specs, shape)
        found: dict[tuple[int, ...], Price] = {}
        unknown: dict[tuple[int, ...], KernelSpec] = {}
        for key, spec in specs.items():
            row = self.table.get(spec)
            if row is None or (row.failure is None and row.status != OK and not self._untrusted):
                unknown[key] = spec
                continue
            row = self.table.lookup(spec, untrusted=self._untrusted)
            deviation = (row.ci_high - row.ci_low) / (2 * HALF_INTERVAL)
            found[key] = Price(row.median, deviation, True)
        if not unknown:
            return found
        return found | self._between(unknown, shape)

    def _between(
        self, specs: Mapping[tuple[int, ...], KernelSpec], shape: Shape
    ) -> dict[tuple[int, ...], Price]:
        """Prices from the surface; a kernel that it does not enclose raises ``KernelMissError``."""
        surface = self.surface(shape)
        places = [shape.coordinates(spec) for spec in specs.values()]
        for spec, place in zip(specs.values(), places, strict=True):
            if surface is None or place is None or not surface.encloses(place):
                self.table.lookup(spec)  # raises, and names what is near
                raise KernelMissError(
                    f"kernel '{spec.label()}' does not lie between kernels of table {self.table.directory}",
                    hint="add it with hwprune profile",
                )
        assert surface is not None
        costs, deviations = surface.at(np.array(places, np.float64))
        return {
            key: Price(float(cost), float(deviation), False)
            for key, cost, deviation in zip(specs, costs, deviations, strict=True)
        }

    def _of_joined(
        self, specs: Mapping[tuple[int, ...], KernelSpec], shape: Shape
    ) -> dict[tuple[int, ...], Price]:
        """Prices of concatenations: any with as many inputs and channels stands for all of them."""
        surface = self.surface(shape)
        known = {} if surface is None else surface.known
        found: dict[tuple[int, ...], Price] = {}
        unknown: dict[tuple[int, ...], KernelSpec] = {}
        for key, spec in specs.items():
            place = shape.coordinates(spec)
            row = self.table.get(spec)
            if row is not None and row.failure is not None:
                self.table.lookup(spec)  # raises, and says how it failed
            if place is None or place not in known:
                unknown[key] = spec
                continue
            assert surface is not None
            found[key] = Price(known[place], surface.error * known[place], True)
        return found | (self._between(unknown, shape) if unknown else {})

    def surface(self, shape: Shape) -> Surface | None:
        """The surface through all measured kernels of a shape; ``None`` without any."""
        if shape.key not in self._surfaces:
            places: dict[tuple[int, ...], list[float]] = {}
            for spec, ns in self._measured(shape.chain):
                place = shape.coordinates(spec)
                if place is not None:
                    places.setdefault(place, []).append(ns)
            means = np.array([sum(each) / len(each) for each in places.values()])
            self._surfaces[shape.key] = Surface(np.array(list(places), np.float64), means) if places else None
        return self._surfaces[shape.key]

    def _measured(self, chain: str) -> list[tuple[KernelSpec, float]]:
        """Kernels with these operators that may be relied on, by digest, and their times."""
        if chain not in self._by_chain:
            rows = self.table.with_operators(chain)
            trusted = [row for row in rows if row.status == OK or self._untrusted]
            self._by_chain[chain] = [(row.kernel, row.median) for row in trusted]
        return self._by_chain[chain]
