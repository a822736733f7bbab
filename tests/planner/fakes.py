"""A made-up device: kernels cost what a formula says, networks what their kernels cost and more."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from hwprune.extent import Extent
from hwprune.latency.kernel import FamilyInput, KernelFamily, KernelOp, KernelSpec
from hwprune.latency.manifest import SweepRecord, TableManifest
from hwprune.latency.predict import LatencyModel
from hwprune.latency.program import Program
from hwprune.latency.rows import Row
from hwprune.latency.table import LatencyTable
from hwprune.measure.stats import Summary
from hwprune.planner.loop import PlanningLoop
from hwprune.planner.network import NOTHING, Removable

Cost = Callable[[KernelSpec], float]

MANIFEST = TableManifest(
    target={"name": "fake"},
    target_string="llvm",
    device={"slug": "fake"},
    system="",
    pipeline="0123456789ab",
    unit="ns",
    provenance="measured",
    created="",
    updated="",
    sweeps=(SweepRecord(id="0f0f0f0f", command="", git=None, versions={}, seed=0, profile={}, started=""),),
)

WIDTHS = tuple(range(16, 129, 16))
DOMAINS = {"a": WIDTHS, "b": WIDTHS, "c": WIDTHS}


@dataclass(frozen=True)
class PlainNetwork:
    """A network without removable blocks, from its kernel families."""

    model: LatencyModel
    at: Callable[[Mapping[str, int]], Program]

    @property
    def dense(self) -> Mapping[str, int]:
        """Every group at its largest width."""
        return self.model.dense

    @property
    def removable(self) -> tuple[Removable, ...]:
        """None."""
        return ()

    def without(self, removed: frozenset[str]) -> LatencyModel:
        """All kernel families."""
        assert not removed
        return self.model

    def program_at(self, widths: Mapping[str, int], removed: frozenset[str] = NOTHING) -> Program:
        """The network for timing."""
        assert not removed
        return self.at(widths)


def dense_family(name: str, inputs: Extent, outputs: Extent) -> KernelFamily:
    """A linear layer."""
    return KernelFamily(
        name,
        (FamilyInput((Extent(1), inputs), "data"), FamilyInput((outputs, inputs), "weight")),
        (KernelOp("linear", (0, 1, -1)),),
    )


def of(group: str) -> Extent:
    return Extent(0, ((group, 1),))


#: input -> a -> b -> c -> output, and one kernel that no width changes.
CHAIN = (
    dense_family("first", Extent(3), of("a")),
    dense_family("ab", of("a"), of("b")),
    dense_family("bc", of("b"), of("c")),
    dense_family("last", of("c"), Extent(10)),
    dense_family("fixed", Extent(7), Extent(5)),
)


def sizes(spec: KernelSpec) -> tuple[int, int]:
    """Outputs and inputs of a linear kernel."""
    outputs, inputs = spec.inputs[1].shape
    return outputs, inputs


def bilinear(spec: KernelSpec) -> float:
    outputs, inputs = sizes(spec)
    return 100.0 + 2.0 * outputs + 3.0 * inputs + 0.5 * outputs * inputs


def staircase(seed: int) -> Cost:
    """Steps of 32 outputs, with 5 % of noise that is the same whenever a kernel is asked for."""

    def cost(spec: KernelSpec) -> float:
        outputs, inputs = sizes(spec)
        digest = hashlib.sha256(f"{seed}{spec.canonical()}".encode()).digest()
        noise = 0.95 + 0.1 * digest[0] / 255
        return noise * (200.0 + 32 * -(-outputs // 32) * (4.0 + inputs))

    return cost


def row(spec: KernelSpec, median: float, status: str = "ok") -> Row:
    numbers = (median, median, median, median, median)
    return Row(spec.digest(), spec.label(), spec.canonical(), "ns", *numbers, 9, status, 1, "")


def table(rows: Sequence[Row]) -> LatencyTable:
    return LatencyTable(Path("fake"), MANIFEST, rows)


#: Kernels of a device take as many times what a formula says: launches are small beside that.
SCALE = 1e4


class Device:
    """Measures kernels and networks, and keeps the books.

    ``network`` gives a network's latency from its kernels' sum and its widths; ``drift`` is the
    slowness of the machine at each call of :meth:`time_networks`.
    """

    def __init__(
        self,
        cost: Cost,
        network: Callable[[float, Mapping[str, int]], float] = lambda total, widths: total,
        drift: Sequence[float] = (),
    ) -> None:
        self.network, self.drift = network, list(drift)
        self.cost: Cost = lambda spec: SCALE * cost(spec)
        self.model = LatencyModel(CHAIN, DOMAINS)
        self.rows: dict[str, Row] = {}
        self.measured_twice = 0
        self.timed: list[dict[str, Mapping[str, int]]] = []

    def profile(self, specs: Sequence[KernelSpec]) -> LatencyTable:
        for spec in {s.digest(): s for s in specs}.values():
            self.measured_twice += spec.digest() in self.rows
            self.rows[spec.digest()] = row(spec, self.cost(spec))
        return table(list(self.rows.values()))

    def time_networks(self, programs: Mapping[str, Program]) -> Mapping[str, Summary]:
        networks = cast("dict[str, Mapping[str, int]]", dict(programs))
        slow = self.drift[len(self.timed)] if len(self.timed) < len(self.drift) else 1.0
        self.timed.append(networks)
        found: dict[str, Summary] = {}
        for name, widths in networks.items():
            ns = slow * self.truth(widths)
            found[name] = Summary(ns, ns, ns, ns, ns, (), 9)
        return found

    def truth(self, widths: Mapping[str, int]) -> float:
        """Latency of a network on the quiet device."""
        return self.network(sum(self.cost(s) for s in self.model.kernels(widths)), widths)

    def loop(self, values: Mapping[str, np.ndarray], **options: Any) -> PlanningLoop:
        return PlanningLoop(
            PlainNetwork(self.model, lambda widths: cast("Program", dict(widths))),
            values,
            profile=self.profile,
            time_networks=self.time_networks,
            **options,
        )


def random_values(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {group: generator.exponential(1.0, widths[-1]) for group, widths in DOMAINS.items()}
