"""From a vector to an architecture that keeps every limit, and leaves none of the budget unused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hwprune.errors import BudgetError
from hwprune.planner.joint.mapping import Architecture, Mapping
from hwprune.solve.milp import solve_milp
from hwprune.solve.problem import Block, Choice, Domain, Problem

#: What being above the vector is worth, beside the square of being below it.
ABOVE = 0.01
#: Seconds for one rounding: of a large network a nearly nearest architecture is good enough.
TIME_LIMIT_S = 10.0


def round_feasibly(mapping: Mapping, problems: Sequence[Problem], v: np.ndarray) -> Architecture:
    """Round a vector so that all limits are kept by the prices of the problem itself.

    The mapping alone would round every coordinate down, and may still be above a limit. Instead the
    exact program is asked for the architecture that falls short of the vector by the least sum of
    squares, and of equally good ones for the largest: rounding one coordinate after the other would
    give away what another could have used.

    Parameters
    ----------
    problems
        One per input size, ascending.

    Raises
    ------
    BudgetError
        No architecture keeps the limits; the message names the closest that can be reached.
    """
    best: tuple[float, Architecture] | None = None
    failure: BudgetError | None = None
    for number in reversed(range(len(problems))):
        try:
            solution = solve_milp(closeness(mapping, problems[number], v), time_limit_s=TIME_LIMIT_S)
        except BudgetError as error:
            failure = failure or error
            continue
        value = solution.value + _resolution(mapping, number, v)
        if best is None or value > best[0]:
            best = value, Architecture(number, solution.choice)
    if best is None:
        assert failure is not None
        raise failure
    filled = _filled(mapping, problems[best[1].variant], best[1].choice, v)
    return Architecture(best[1].variant, filled)


def closeness(mapping: Mapping, problem: Problem, v: np.ndarray) -> Problem:
    """The same limits, with closeness to a vector in the place of importance."""
    wanted = dict(zip(((c.kind, c.name) for c in mapping.space.coordinates), v.tolist(), strict=True))
    domains = tuple(_near(d, wanted.get(("width", d.group), 1.0)) for d in problem.domains)
    inside: dict[str, float] = {}
    for domain in domains:
        if domain.block is not None:
            inside[domain.block] = inside.get(domain.block, 0.0) + max(domain.values)
    gone = mapping.at(v).choice.removed
    blocks: list[Block] = []
    for stage in mapping.stages.values():
        fraction, count = wanted["depth", stage.name], len(stage.blocks)
        for i, name in enumerate(stage.blocks):
            worth = _worth((i + 1) / count, fraction) - _worth(i / count, fraction)
            # Where the vector has no such block, its groups are no reason to keep it.
            blocks.append(Block(name, worth - (inside.get(name, 0.0) if name in gone else 0.0)))
    known = {block.name for block in blocks}
    # Blocks without a coordinate stay.
    blocks += [Block(b.name, 2.0 * len(domains)) for b in problem.blocks if b.name not in known]
    return replace(
        problem,
        domains=domains,
        blocks=tuple(blocks),
        constant_value=0.0,
        minimise=None,
        floor=-np.inf,
    )


def _filled(mapping: Mapping, problem: Problem, choice: Choice, v: np.ndarray) -> Choice:
    """Widths raised, one step of the group furthest below the vector at a time, while the limits allow it.

    The exact program stops at a gap, within which there may be room for another step.
    """
    wanted = {
        c.name: f for c, f in zip(mapping.space.coordinates, v.tolist(), strict=True) if c.kind == "width"
    }
    widths = dict(choice.widths)
    growing = {d.group: d.widths for d in problem.domains if widths[d.group]}
    while growing:
        group = min(growing, key=lambda g: widths[g] / growing[g][-1] - wanted.get(g, 1.0))
        larger = next((w for w in growing[group] if w > widths[group]), None)
        if larger is not None and problem.keeps(Choice(widths | {group: larger}, choice.removed)):
            widths[group] = larger
        else:
            del growing[group]
    return Choice(widths, choice.removed)


def _worth(level: float, wanted: float) -> float:
    return ABOVE * (level - wanted) if level >= wanted else -((wanted - level) ** 2)


def _near(domain: Domain, fraction: float) -> Domain:
    return replace(domain, values=tuple(1.0 + _worth(w / domain.widths[-1], fraction) for w in domain.widths))


def _resolution(mapping: Mapping, variant: int, v: np.ndarray) -> float:
    for c, fraction in zip(mapping.space.coordinates, v.tolist(), strict=True):
        if c.kind == "resolution":
            return _worth(c.levels[variant], fraction)
    return 0.0
