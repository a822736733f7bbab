"""The problems of several targets as one: shared widths and importance, a latency limit for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from hwprune.errors import PlanError
from hwprune.solve.problem import Concat, Limit, Problem

#: Name of the limit on the weighted mean of latencies relative to those of the dense network.
MEAN = "weighted latency"


def fleet_problem(
    problems: Sequence[tuple[str, Problem, float]], weights: Sequence[float] | None, share: float | None
) -> Problem:
    """The problems of several targets as one.

    Parameters
    ----------
    problems
        For every target its name, its problem (whose first limit is its latency), and the latency of its
        dense network.
    weights, share
        With weights, the weighted mean of relative latencies comes first, limited by ``share``.

    Raises
    ------
    PlanError
        The targets differ in widths or removable blocks.
    """
    first = problems[0][1]
    concats: dict[str, Concat] = {}
    limits: list[Limit] = []
    for name, problem, _ in problems:
        if [d.widths for d in problem.domains] != [d.widths for d in first.domains] or {
            b.name for b in problem.blocks
        } != {b.name for b in first.blocks}:
            raise PlanError(
                f"targets {problems[0][0]} and {name} do not agree on what can be removed",
                hint="plan for them one by one, or without removable blocks",
            )
        renamed = {c.name: _known(c, concats, name) for c in problem.concats}
        limit = problem.limits[0]
        terms = tuple(
            replace(t, name=f"{t.name} on {name}", axes=tuple(renamed.get(a, a) for a in t.axes))
            for t in limit.terms
        )
        limits.append(replace(limit, name=f"latency on {name}", terms=terms))
    if weights is not None:
        scales = [w / dense for w, (_, _, dense) in zip(weights, problems, strict=True)]
        terms = tuple(
            replace(t, cost_ns=t.cost_ns * scale)
            for scale, limit in zip(scales, limits, strict=True)
            for t in limit.terms
        )
        fixed = math.fsum(scale * limit.fixed for scale, limit in zip(scales, limits, strict=True))
        limits.insert(0, Limit(MEAN, terms, fixed, math.inf if share is None else share, "of dense"))
    return replace(first, limits=tuple(limits), concats=tuple(concats.values()))


def _known(concat: Concat, concats: dict[str, Concat], target: str) -> str:
    """The name of a sum of widths in the common problem."""
    for name, other in concats.items():
        if (other.groups, other.channels) == (concat.groups, concat.channels):
            return name
    name = concat.name if concat.name not in concats else f"{concat.name} on {target}"
    concats[name] = replace(concat, name=name)
    return name
