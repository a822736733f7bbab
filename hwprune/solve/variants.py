"""The best of several problems, such as one network at several input resolutions.

Latency and importance change altogether with the resolution, and there are few resolutions: so each
is a problem of its own, whatever solves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import TypeVar

from hwprune.errors import BudgetError, PlanError
from hwprune.solve.exact import Exact
from hwprune.solve.problem import Problem, Solution

Key = TypeVar("Key", bound=Hashable)


def best_of(
    problems: Mapping[Key, Problem],
    solve: Callable[[Problem], Solution],
    *,
    name: Callable[[Key], str] = str,
) -> tuple[Key, Solution]:
    """The variant whose solution has the greatest objective, and that solution.

    Parameters
    ----------
    problems
        All with objectives that can be compared: values in one scale, the same limit minimised.
    solve
        Solves each of them; raises ``BudgetError`` where no choice is within the limits.
    name
        What a variant is called where none is within its limits.

    Returns
    -------
    tuple
        The key of the best variant (of those with the same objective the first), and its solution. The
        bound and the gap are over all variants: what no other can do better than is part of the
        proof. The seconds are those of all.

    Raises
    ------
    BudgetError
        No variant has a choice within its limits; the message is that of the one that comes closest.
    PlanError
        There are no problems, or they have different objectives.
    """
    if not problems:
        raise PlanError("there are no variants to choose from", hint="give at least one problem")
    if len({problem.minimise for problem in problems.values()}) > 1:
        raise PlanError("the variants have different objectives", hint="minimise the same limit in all")
    if len(problems) == 1:
        ((key, problem),) = problems.items()
        return key, solve(problem)
    found: dict[Key, Solution] = {}
    failures: dict[Key, BudgetError] = {}
    for key, problem in problems.items():
        try:
            found[key] = solve(problem)
        except BudgetError as failure:
            failures[key] = failure
    if not found:
        closest = min(failures, key=lambda key: _least(problems[key]))
        failure = failures[closest]
        raise BudgetError(
            f"no variant is within the limits; {name(closest)} comes closest: {failure.message}",
            hint=failure.hint,
        ) from failure
    key = max(found, key=lambda key: found[key].objective)
    best = found[key]
    bound = max(solution.bound for solution in found.values())
    gap = (bound - best.objective) / max(abs(bound), 1e-12)
    seconds = math.fsum(solution.seconds for solution in found.values())
    return key, replace(best, bound=bound, gap=gap, seconds=seconds)


def _least(problem: Problem) -> float:
    """Least that any choice uses of the first limit, or a bound on it."""
    # A limit that every choice breaks is certain to have a row in the model.
    return Exact(problem.limited(-math.inf)).dual.least(1)[0]
