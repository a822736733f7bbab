"""Fewer widths to choose from: those that are allowed, or that no limit rules out by itself.

A limit that concerns one group alone says which widths that group may have, and nothing else. One on
several rules out the widths that break it even where all else is at its least. What is left is a
smaller problem with the same solutions, and limits that nothing left can break are no limits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from hwprune.errors import PlanError
from hwprune.solve.problem import Domain, Limit, Problem, Term

#: Widths that go from one group may rule out those of another; so many times at most.
_ROUNDS = 4


def narrowed(problem: Problem) -> Problem:
    """The problem without widths that no choice within the limits has.

    The same problem where there are none, or where no choice is within the limits at all.
    """
    for _ in range(_ROUNDS):
        left = {domain.group: np.ones(len(domain.widths), bool) for domain in problem.domains}
        for limit in problem.limits:
            if math.isfinite(limit.at_most):
                _rule_out(problem, limit, left)
        gone = [name for name, may in left.items() if not may.any()]
        if any(problem.domain(name).block is None for name in gone):
            return problem
        # A block whose group has no width left must go, which is for the solver to find.
        narrow = {name for name, may in left.items() if not may.all()} - set(gone)
        if not narrow:
            return _lifted(problem)
        widths = {
            name: [w for w, may in zip(problem.domain(name).widths, left[name], strict=True) if may]
            for name in narrow
        }
        problem = restricted(problem, widths)
    return _lifted(problem)


def _lifted(problem: Problem) -> Problem:
    """Without the bounds on single groups that all widths keep now; the first limit names plans and stays."""
    first, *others = problem.limits
    limits = [replace(x, at_most=math.inf) if _is_kept(problem, x) else x for x in others]
    changed = any(new is not old for new, old in zip(limits, others, strict=True))
    return replace(problem, limits=(first, *limits)) if changed else problem


def _is_kept(problem: Problem, limit: Limit) -> bool:
    """Whether a limit is about one group alone, every width of which keeps it."""
    axes = {name for term in limit.terms for name in term.axes}
    if len(axes) != 1 or not axes <= {domain.group for domain in problem.domains}:
        return False
    (group,) = axes
    for level in range(len(problem.domain(group).widths)):
        costs = [(term, float(term.cost_ns[(level,) * len(term.axes)])) for term in limit.terms]
        # A part that may be gone counts as far as it takes something.
        most = math.fsum(cost if term.block is None else max(0.0, cost) for term, cost in costs)
        if limit.fixed + most > limit.at_most:
            return False
    return True


def _rule_out(problem: Problem, limit: Limit, left: Mapping[str, np.ndarray]) -> None:
    """Mark the widths with which a limit is broken whatever else is chosen."""
    least = [_least(term, float(np.min(term.cost_ns)), None) for term in limit.terms]
    total = limit.fixed + math.fsum(least)
    size = abs(limit.fixed) + math.fsum(float(np.abs(term.cost_ns).max()) for term in limit.terms)
    extra: dict[str, np.ndarray] = {}
    for term, without in zip(limit.terms, least, strict=True):
        for axis, name in enumerate(term.axes):
            if name not in left or name in term.axes[:axis]:
                continue
            table = np.asarray(term.cost_ns, np.float64)
            at = table.min(axis=tuple(k for k in range(table.ndim) if k != axis))
            home = problem.domain(name).block
            costs = np.array([_least(term, float(cost), home) for cost in at])
            extra[name] = extra.get(name, 0.0) + (costs - without)
    for name, more in extra.items():
        left[name][total + more > limit.at_most + 1e-9 * (size + abs(limit.at_most))] = False


def _least(term: Term, cost: float, present: str | None) -> float:
    """Least that a term costs, where the block ``present`` is there and others may be gone."""
    return cost if term.block is None or term.block == present else min(0.0, cost)


def restricted(problem: Problem, allowed: Mapping[str, Sequence[int]]) -> Problem:
    """The problem with fewer widths: of the groups in ``allowed`` only those are left."""

    def narrowed(domain: Domain) -> Domain:
        left = set(allowed.get(domain.group, domain.widths))
        pairs = [(w, v) for w, v in zip(domain.widths, domain.values, strict=True) if w in left]
        if not pairs:
            raise PlanError(f"no width of group {domain.group!r} is left", hint="widen its limits")
        widths, values = zip(*pairs, strict=True)
        return replace(domain, widths=widths, values=values)

    smaller = replace(problem, domains=tuple(narrowed(domain) for domain in problem.domains))
    before, after = problem.all_levels, smaller.all_levels
    kept = {axis: [before[axis].index(level) for level in levels] for axis, levels in after.items()}

    def priced(term: Term) -> Term:
        return replace(term, cost_ns=term.cost_ns[np.ix_(*(kept[axis] for axis in term.axes))])

    limits = tuple(replace(limit, terms=tuple(map(priced, limit.terms))) for limit in smaller.limits)
    return replace(smaller, limits=limits)
