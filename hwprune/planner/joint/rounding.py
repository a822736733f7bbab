"""The architecture nearest to a vector that keeps every limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hwprune.errors import BudgetError
from hwprune.planner.joint.mapping import Architecture, Mapping
from hwprune.solve.milp import solve_milp
from hwprune.solve.problem import Block, Domain, Problem


def nearest_feasible(mapping: Mapping, problems: Sequence[Problem], v: np.ndarray) -> Architecture:
    """Round a vector so that all limits are kept by the prices of the problem itself.

    Where the vector's own architecture keeps them, that is it. Else the exact program is asked for
    the architecture with the least sum of squared distances to the vector: rounding one coordinate
    after the other would give away what another could have used.

    Parameters
    ----------
    problems
        One per input size, ascending.

    Raises
    ------
    BudgetError
        No architecture keeps the limits; the message names the closest that can be reached.
    """
    own = mapping.at(v)
    if problems[own.variant].keeps(own.choice):
        return own
    best: tuple[float, Architecture] | None = None
    failure: BudgetError | None = None
    for number in reversed(range(len(problems))):
        try:
            solution = solve_milp(closeness(mapping, problems[number], v))
        except BudgetError as error:
            failure = failure or error
            continue
        value = solution.value - _distance(mapping, number, v)
        if best is None or value > best[0]:
            best = value, Architecture(number, solution.choice)
    if best is None:
        assert failure is not None
        raise failure
    return best[1]


def closeness(mapping: Mapping, problem: Problem, v: np.ndarray) -> Problem:
    """The same limits, with closeness to a vector in the place of importance."""
    wanted = dict(zip(((c.kind, c.name) for c in mapping.space.coordinates), v.tolist(), strict=True))
    domains = [_near(d, wanted.get(("width", d.group), 1.0)) for d in problem.domains]
    inside: dict[str, float] = {}
    for domain in domains:
        if domain.block is not None:
            inside[domain.block] = inside.get(domain.block, 0.0) + max(domain.values)
    stays = mapping.at(v).choice.removed
    blocks: list[Block] = []
    for stage in mapping.stages.values():
        fraction, count = wanted["depth", stage.name], len(stage.blocks)
        for i, name in enumerate(stage.blocks):
            # Cost of leaving i blocks instead of i + 1; what its groups are worth must not count.
            worth = (i / count - fraction) ** 2 - ((i + 1) / count - fraction) ** 2
            blocks.append(Block(name, worth - (inside.get(name, 0.0) if name in stays else 0.0)))
    known = {block.name for block in blocks}
    blocks += [Block(b.name, 1.0 + len(domains)) for b in problem.blocks if b.name not in known]
    return replace(
        problem, domains=tuple(domains), blocks=tuple(blocks), constant_value=0.0, minimise=None, floor=-np.inf
    )


def _near(domain: Domain, fraction: float) -> Domain:
    values = tuple(1.0 - (w / domain.widths[-1] - fraction) ** 2 for w in domain.widths)
    return replace(domain, values=values)


def _distance(mapping: Mapping, variant: int, v: np.ndarray) -> float:
    for c, fraction in zip(mapping.space.coordinates, v.tolist(), strict=True):
        if c.kind == "resolution":
            return (c.levels[variant] - fraction) ** 2
    return 0.0
