"""Problems that a joint search can be given."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from hwprune.errors import PlanError
from hwprune.solve.problem import Problem

Key = TypeVar("Key", bound=Hashable)


def check_problems(problems: Mapping[Key, Problem], keys: Sequence[Key]) -> list[Problem]:
    """The problems in the order of the keys, if they can be searched.

    Raises
    ------
    PlanError
        One is missing or too many, minimises something, has a floor or no budget, or offers other
        widths than the last.
    """
    if set(problems) != set(keys):
        raise PlanError(
            f"there are problems for {_names(problems)}, but networks for {_names(keys)}",
            hint="give one problem per input size",
        )
    ordered = [problems[key] for key in keys]
    for problem in ordered:
        if problem.minimise is not None:
            raise PlanError(
                f"the joint solver makes the loss least within budgets, it cannot minimise "
                f"{problem.minimise!r}",
                hint="give a latency budget, or use the milp solver",
            )
        if problem.floor > -math.inf:
            raise PlanError(
                f"the joint solver goes by the loss, it keeps no floor of importance ({problem.floor:.4g})",
                hint="use the milp solver with a floor, or give only budgets",
            )
        if not any(math.isfinite(limit.at_most) for limit in problem.limits):
            raise PlanError("the problem has no budget", hint="give a latency budget")
        if _widths(problem) != _widths(ordered[-1]):
            raise PlanError(
                "the groups or widths on offer differ between input sizes", hint="offer the same at all sizes"
            )
    return ordered


def check_unchanged(before: Problem, now: Problem) -> None:
    """Raise ``PlanError`` if a search would have to begin anew."""
    old, new = _widths(before), _widths(now)
    changed = [group for group in {**old, **new} if old.get(group) != new.get(group)]
    if changed:
        raise PlanError(
            f"the widths on offer changed after the search: {', '.join(changed[:5])}",
            hint="make a new joint solver for the new widths",
        )


def _widths(problem: Problem) -> dict[str, tuple[int, ...]]:
    return {domain.group: domain.widths for domain in problem.domains}


def _names(keys: Iterable[object]) -> str:
    return ", ".join(sorted(str(key) for key in keys)) or "none"
