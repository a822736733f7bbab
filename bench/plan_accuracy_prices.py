"""Latency of a network at any widths: from a measured table, or made up, to try things out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwprune.capture.captured import Captured
from hwprune.compile.shapes import infer_shapes, kernel_flops
from hwprune.dependency.groups import Dependencies
from hwprune.errors import KernelMissError
from hwprune.latency.fusion import fuse
from hwprune.latency.kernel import KernelFamily, KernelSpec
from hwprune.latency.predict import LatencyModel
from hwprune.latency.table import LatencyTable
from hwprune.planner.widths import group_widths
from hwprune.planner.workbench import Progress, Workbench, measure_profile
from hwprune.solve.milp import solve_milp
from hwprune.solve.problem import Choice, Domain, Limit, Problem, Term
from hwprune.target import Target

#: Rounds of measuring what a solution uses.
REFINEMENTS = 6


@dataclass
class Prices:
    """Kernels of one network and what they cost.

    With a ``bench`` kernels are measured, and interpolated between measured ones; without one a
    formula stands in for the device. ``factor`` is what the dense network takes over its kernels.
    """

    model: LatencyModel
    bench: Workbench | None = None
    table: LatencyTable | None = None
    factor: float = 1.0

    @staticmethod
    def measured(
        captured: Captured,
        deps: Dependencies,
        target: Target,
        profile: str,
        tables: Path | None,
        tell: Progress,
    ) -> Prices:
        """The table of this machine, extended by what it lacks; the dense network is timed as well."""
        bench = Workbench.open(
            captured, deps, target, profile=measure_profile(profile), tables=tables, progress=tell
        )
        table = bench.measure_kernels([*bench.model.specs(), *bench.model.kernels(bench.model.dense)])
        dense = bench.time_networks({"dense": bench.program_at(bench.model.dense)})["dense"].median
        return Prices(bench.model, bench, table, dense / bench.model.sum_ns(bench.model.dense, table))

    @staticmethod
    def made_up(captured: Captured, deps: Dependencies, target: Target) -> Prices:
        """No device: see :func:`made_up_ns`."""
        widths = group_widths(deps, captured.graph.graph, target)
        families = fuse(captured.graph).families(deps.extents)
        return Prices(LatencyModel(families, {name: w.widths for name, w in widths.items()}))

    @property
    def domains(self) -> Mapping[str, tuple[int, ...]]:
        """Widths on offer."""
        return self.model.domains

    def of(self, widths: Mapping[str, int]) -> float:
        """Nanoseconds of the network. Kernels beyond what was measured are measured now."""
        if self.bench is None or self.table is None:
            return sum(made_up_ns(spec) for spec in self.model.kernels(widths))
        try:
            return self.factor * self.model.predict(widths, self.table).ns
        except KernelMissError:
            self.table = self.bench.measure_kernels(self.model.kernels(widths))
            return self.factor * self.model.predict(widths, self.table).ns

    def measure(self, widths: Mapping[str, int]) -> bool:
        """Measure the kernels of a network that were only interpolated; whether there were any."""
        if self.bench is None or self.table is None:
            return False
        missing = self.model.missing(widths, self.table)
        if missing:
            self.table = self.bench.measure_kernels(missing)
        return bool(missing)

    def solve(self, values: Mapping[str, Sequence[float]], budget_ns: float) -> Choice:
        """The exact plan. Its kernels are measured and it is made again, lest it lives on interpolation."""
        choice = solve_milp(self.problem(values, budget_ns)).choice
        for _ in range(REFINEMENTS):
            if not self.measure(choice.widths):
                break
            choice = solve_milp(self.problem(values, budget_ns)).choice
        return choice

    def problem(self, values: Mapping[str, Sequence[float]], budget_ns: float) -> Problem:
        """Most of ``values`` within a latency."""
        terms: list[Term] = []
        fixed = 0.0
        for family, cost in self._costs():
            if family.groups:
                terms.append(Term(family.name, family.groups, cost * self.factor))
            else:
                fixed += float(cost) * self.factor
        domains = tuple(Domain(g, w, tuple(values[g])) for g, w in self.domains.items())
        return Problem(domains, (Limit("latency", tuple(terms), fixed, budget_ns),))

    def _costs(self) -> list[tuple[KernelFamily, np.ndarray]]:
        if self.table is not None:
            return [(c.family, c.cost_ns) for c in self.model.costs(self.table)]
        found: list[tuple[KernelFamily, np.ndarray]] = []
        for family in self.model.families:
            offers = [self.domains[g] for g in family.groups]
            cost = np.empty([len(o) for o in offers])
            for index in np.ndindex(*cost.shape):
                chosen = {g: o[i] for g, o, i in zip(family.groups, offers, index, strict=True)}
                cost[index] = made_up_ns(family.at(chosen))
            found.append((family, cost))
        return found


def made_up_ns(spec: KernelSpec) -> float:
    """Nanoseconds of a kernel where there is no device: 0.7 us, 80 GFLOP/s (depthwise 20), 30 GB/s."""
    moved = 4 * sum(math.prod(shape) for shape in infer_shapes(spec))
    rate = 20 if spec.anchor == "depthwise_conv2d" else 80
    return 700 + kernel_flops(spec) / rate + moved / 30
