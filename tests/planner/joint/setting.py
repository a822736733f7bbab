"""The smallest network with a made-up latency, and a short search."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch

from hwprune.analysed import analyse_model
from hwprune.dependency.blocks import find_blocks
from hwprune.planner.joint import JointOptions, JointSolver, Variant
from hwprune.solve.problem import Problem, Solution
from tests.planner.joint.analytic import analytic_problem
from tests.small import Small, batches

QUICK = JointOptions(iterations=16, warmup=0.25, samples=2, pairs=2, every=2, eta=0.1, candidates=2)
TRAIN, HELD_OUT = batches(4, 0), batches(2, 1)


@cache
def subject(side: int = 8) -> Variant:
    captured, deps = analyse_model(Small().eval(), torch.zeros(1, 1, side, side))
    return Variant(captured, deps, find_blocks(captured, deps))


def problem(share: float, *, side: int = 8, depth: bool = False, dense_ns: float | None = None) -> Problem:
    variant = subject(side)
    branches = variant.blocks if depth else ()
    return analytic_problem(variant.captured, variant.deps, share, branches=branches, dense_ns=dense_ns)


def solver(
    options: JointOptions = QUICK, data: Iterable[Any] | None = TRAIN, **more: Any
) -> JointSolver[int]:
    generator = np.random.default_rng(0)
    scores = {g.name: generator.exponential(1.0, g.size) for g in subject().deps.groups}
    variants = more.pop("variants", {8: subject()})
    held_out = more.pop("held_out", HELD_OUT)
    return JointSolver(variants, scores, data=data, held_out=held_out, options=options, **more)


def used(problem: Problem, solution: Solution) -> float:
    return problem.usage(problem.limits[0], solution.choice) / problem.limits[0].at_most
