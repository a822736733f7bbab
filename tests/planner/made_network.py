"""Networks on a made-up device: real graphs and kernels, made-up times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from torch import nn

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Program
from hwprune.latency.table import LatencyTable
from hwprune.measure.stats import Summary
from hwprune.planner.loop import PlanningLoop
from hwprune.planner.workbench import Workbench, measure_profile
from hwprune.planner.worth import Worth
from hwprune.target import load_target
from tests.nets import settle
from tests.planner.brute import brute_force
from tests.planner.fakes import row, table
from tests.planner.residual_nets import IMAGE


@cache
def bench(kind: type[nn.Module], steps: int = 3, side: int = 8) -> Workbench:
    """A network on the host, of which nothing is measured; ``side`` is that of its input."""
    captured = capture(settle(kind()), nn.functional.interpolate(IMAGE, (side, side)))
    target = load_target("host", threads=1)
    return Workbench.open(captured, analyse(captured), target, profile=measure_profile("quick"), steps=steps)


def price(spec: KernelSpec) -> float:
    """A product of channel counts, as loop nests cost; concatenations by what they copy."""
    inputs = [np.prod(i.shape) for i in spec.inputs]
    return 3000.0 + float(sum(inputs)) * (4.0 if spec.anchor == "cat" else 20.0)


class Machine:
    """Kernels cost what :func:`price` says, networks what ``network`` makes of their kernels."""

    def __init__(self, slower: float = 1.0) -> None:
        self.rows: dict[str, KernelSpec] = {}
        self.slower = slower
        self.timed: list[Mapping[str, Program]] = []

    def profile(self, specs: Sequence[KernelSpec]) -> LatencyTable:
        self.rows.update({spec.digest(): spec for spec in specs})
        return table([row(spec, price(spec)) for spec in self.rows.values()])

    def truth(self, program: Program) -> float:
        return self.slower * sum(price(step.spec) for step in program.steps)

    def time_networks(self, programs: Mapping[str, Program]) -> dict[str, Summary]:
        self.timed.append(programs)
        found = {name: self.truth(program) for name, program in programs.items()}
        return {name: Summary(ns, ns, ns, ns, ns, (), 9) for name, ns in found.items()}


def scores(found: Workbench, seed: int = 0) -> dict[str, np.ndarray]:
    """A score for every unit."""
    generator = np.random.default_rng(seed)
    return {g.name: generator.exponential(1.0, g.size) for g in found.deps.groups}


def worth(found: Workbench, blocks: Mapping[str, float] | None = None) -> Worth:
    """What :func:`scores` make widths worth."""
    groups = Worth.of_scores(scores(found), found.model.domains).groups
    return Worth(groups, dict(blocks or {}))


def loop(found: Workbench, machine: Machine, **options: object) -> PlanningLoop:
    """The loop with a solver that looks at every choice."""
    return PlanningLoop(
        found,
        options.pop("worth", None) or worth(found),  # pyright: ignore[reportArgumentType]
        profile=machine.profile,
        time_networks=machine.time_networks,
        solve=brute_force,
        **options,  # pyright: ignore[reportArgumentType]
    )
