"""The joint solver inside the planning loop, on a made-up device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch

from hwprune.analysed import analyse_model
from hwprune.latency.fusion import fuse
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.predict import LatencyModel
from hwprune.latency.program import Program
from hwprune.latency.rows import Row
from hwprune.latency.table import LatencyTable
from hwprune.measure.stats import Summary
from hwprune.planner.joint import JointOptions, JointSolver, Variant
from hwprune.planner.loop import PlanningLoop
from hwprune.planner.network import Column
from hwprune.planner.outcome import TOLERANCE
from hwprune.planner.worth import Worth
from tests.planner.fakes import PlainNetwork, row, table
from tests.small import Small, batches

OPTIONS = JointOptions(
    iterations=8, warmup=0.25, samples=1, pairs=2, every=2, eta=0.1, candidates=2, refine=4
)
WIDTHS = tuple(range(8, 33, 8))


def cost(spec: KernelSpec) -> float:
    """A call, and the multiplications of a layer at stride 1."""
    shapes = [i.shape for i in spec.inputs]
    weights = [i.shape for i in spec.inputs if i.role == "weight" and len(i.shape) > 1]
    return 5e4 + 2.0 * math.prod(shapes[0][2:]) * sum(math.prod(w) for w in weights)


class Device:
    """Kernels cost what :func:`cost` says, networks ``factor`` times their sum."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.rows: dict[str, Row] = {}

    def profile(self, specs: Sequence[KernelSpec]) -> LatencyTable:
        self.rows |= {s.digest(): row(s, cost(s)) for s in specs}
        return table(list(self.rows.values()))

    def time_networks(self, programs: Mapping[str, Program]) -> Mapping[str, Summary]:
        kernels = cast("Mapping[str, list[KernelSpec]]", programs)
        times = {name: self.factor * sum(map(cost, specs)) for name, specs in kernels.items()}
        return {name: Summary(ns, ns, ns, ns, ns, (), 9) for name, ns in times.items()}


def setting(side: int) -> tuple[Variant, PlainNetwork]:
    captured, deps = analyse_model(Small().eval(), torch.zeros(1, 1, side, side))
    families = fuse(captured.graph).families(deps.extents)
    model = LatencyModel(families, {g.name: WIDTHS for g in deps.groups})
    at = PlainNetwork(model, lambda widths: cast("Program", model.kernels(widths)))
    return Variant(captured, deps), at


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_a_plan_keeps_its_budget_and_is_trained_for_once(factor: float) -> None:
    variant, network = setting(8)
    scores = {g.name: np.arange(float(g.size)) for g in variant.deps.groups}
    steps: list[str] = []
    solve = JointSolver(
        {None: variant},
        scores,
        data=batches(4, 0),
        held_out=batches(2, 1),
        options=OPTIONS,
        progress=lambda what, *_: steps.append(what),
    )
    device = Device(factor)
    loop = PlanningLoop(
        network, scores, profile=device.profile, time_networks=device.time_networks, solve=solve
    )
    result = loop.run("50%")
    assert result.solution.solver == "joint"
    assert result.measured_ns is not None
    assert result.measured_ns <= result.budget_ns * (1 + TOLERANCE)
    assert result.solution.value == result.problem.value(result.solution.choice)
    assert steps.count("joint search") == OPTIONS.iterations


def test_the_loop_leaves_the_resolution_to_the_search() -> None:
    sides = ((8, 8), (12, 12))
    settings = {side: setting(side[0]) for side in sides}
    scores = {g.name: np.arange(float(g.size)) for g in settings[12, 12][0].deps.groups}
    solve = JointSolver(
        {side: variant for side, (variant, _) in settings.items()},
        scores,
        data=batches(4, 0),
        held_out=batches(2, 1),
        options=OPTIONS,
    )
    device = Device(1.0)
    loop = PlanningLoop(
        settings[12, 12][1],
        replace(
            Worth.of_scores(scores, dict.fromkeys(scores, WIDTHS)), resolutions=dict.fromkeys(sides, 0.0)
        ),
        profile=device.profile,
        time_networks=device.time_networks,
        columns=[Column(network, side) for side, (_, network) in settings.items()],
        solve=solve,
    )
    result = loop.run("40%")
    assert result.resolution == sides[solve.result.architecture.variant]
    assert result.measured_ns is not None
    assert result.measured_ns <= result.budget_ns * (1 + TOLERANCE)
