"""Fill the latency table for one network, and say how good it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hwprune.latency.kernel import KernelSpec
from hwprune.latency.staircase import EdgeSearch, edge_searches, find_edges
from hwprune.latency.table import MANIFEST_NAME, LatencyTable
from hwprune.planner.adaptive import Sampler, Sampling, ShapeState
from hwprune.planner.workbench import Workbench

#: Steps are looked for in shapes that take at least this share of the network's time.
LEAST_SHARE = 0.02


@dataclass(frozen=True)
class Profiled:
    """What was measured, and the steps that the time of the network's main kernels shows."""

    table: LatencyTable
    sampling: Sampling
    edges: tuple[EdgeSearch, ...]

    def families(self) -> list[dict[str, Any]]:
        """One line per shape of kernels, largest share of the time first.

        ``alignment`` gives channels per step by group: 1 where time grows gradually, None where no step
        can be told from noise; groups that were not looked at are left out.
        """
        states = sorted(self.sampling.shapes, key=lambda state: -state.share)
        return [self._family(state) for state in states]

    def _family(self, state: ShapeState) -> dict[str, Any]:
        own = [edge for edge in self.edges if state.shape.coordinates(edge.at(edge.top)) is not None]
        return {
            "family": state.label,
            "share": state.share,
            "error": state.error,
            "measured": state.measured,
            "offered": state.measured + len(state.open),
            "alignment": {edge.group: edge.alignment for edge in own},
        }


def profile_network(bench: Workbench, *, bound: float, budget_s: float, edges: bool = True) -> Profiled:
    """Measure kernels adaptively; if time is left, look for steps between the widths on offer.

    Parameters
    ----------
    bench
        The network on its target.
    bound
        Relative error of the network's kernel sum by interpolation, at most.
    budget_s
        Seconds after which no further round of measuring begins.
    edges
        Whether to look for steps.
    """
    with bench.workshop:
        return _profiled(bench, bound, budget_s, edges=edges)


def _profiled(bench: Workbench, bound: float, budget_s: float, *, edges: bool) -> Profiled:
    begin = time.monotonic()
    known = bench.load_table() if (bench.directory / MANIFEST_NAME).is_file() else None
    sampler = Sampler(bench.model, bench.measure_kernels, bound=bound, budget_s=budget_s, seed=bench.seed)
    sampling = sampler.run(known)
    if not edges or time.monotonic() - begin > budget_s:
        return Profiled(sampling.table, sampling, ())
    keys = [state.shape.key for state in sampling.shapes if state.share >= LEAST_SHARE]
    tables = [sampling.table]

    def measure(specs: Sequence[KernelSpec]) -> LatencyTable:
        tables.append(bench.measure_kernels(specs))
        return tables[-1]

    found = find_edges(edge_searches(bench.model, keys), measure)
    return Profiled(tables[-1], sampling, tuple(found))
