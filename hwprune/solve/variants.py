"""The best of several problems, such as one network at several input resolutions.

Latency and importance change altogether with the resolution, and there are few resolutions: so each
is a problem of its own. Bounds say in which order to solve them, and which need not be solved.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from hwprune.errors import BudgetError, PlanError
from hwprune.solve.checks import check_problem
from hwprune.solve.exact import Backend, Exact
from hwprune.solve.greedy import lower_greedily
from hwprune.solve.highs import HighsProgram
from hwprune.solve.milp import solve_prepared
from hwprune.solve.problem import Problem, Solution

_log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Best(Generic[Key]):
    """The best variant and its solution, whose bound holds for all variants.

    ``bounds`` are those on the objective of every variant; minus infinity where no choice is
    within the limits.
    """

    key: Key
    solution: Solution
    bounds: Mapping[Key, float]


def best_of(
    problems: Mapping[Key, Problem],
    *,
    time_limit_s: float = 30,
    gap: float = 1e-4,
    backend: Backend = HighsProgram,
    solver: str = "milp",
) -> Best[Key]:
    """The variant whose best choice has the greatest objective, exactly.

    Parameters
    ----------
    problems
        All with objectives that can be compared: values in one scale, the same limit minimised.
    time_limit_s
        Seconds for each variant.
    gap
        Relative gap to the bound over all variants. Of variants with the same objective the first
        is taken.

    Raises
    ------
    BudgetError
        No variant has a choice within its limits; the message is that of the one that comes closest.
    PlanError
        There are no problems, or one contradicts itself.
    """
    if not problems:
        raise PlanError("there are no variants to choose from", hint="give at least one problem")
    if len({problem.minimise for problem in problems.values()}) > 1:
        raise PlanError("the variants have different objectives", hint="minimise the same limit in all")
    begin = time.perf_counter()
    models: dict[Key, Exact] = {}
    for key, problem in problems.items():
        check_problem(problem)
        models[key] = Exact(problem, backend)
    bounds = {key: models[key].bound(problem) for key, problem in problems.items()}
    order = {key: i for i, key in enumerate(problems)}
    best: tuple[Key, Solution] | None = None
    for key in sorted(problems, key=lambda k: (-bounds[k], order[k])):
        problem, exact = problems[key], models[key]
        cutoff = -math.inf if best is None else best[1].objective
        if bounds[key] <= cutoff:
            _log.info("%s cannot be better: its bound is %g", key, bounds[key])
            continue
        now = time.perf_counter()
        starts = [lower_greedily(exact.model, exact.limits(problem))]
        found = exact.solve(problem, gap=gap, deadline=now + time_limit_s, starts=starts, cutoff=cutoff)
        bounds[key] = min(bounds[key], found.bound)
        if found.levels is not None:
            choice = exact.model.choice(found.levels)
            seconds = time.perf_counter() - begin
            best = key, Solution.of(problem, choice, bound=found.bound, seconds=seconds, solver=solver)
    if best is None:
        raise _closest(problems, models, time_limit_s, solver)
    key, solution = best
    whole = Solution.of(
        problems[key],
        solution.choice,
        bound=max(bounds.values()),
        seconds=time.perf_counter() - begin,
        solver=solver,
    )
    return Best(key, whole, bounds)


def _closest(
    problems: Mapping[Key, Problem], models: Mapping[Key, Exact], time_limit_s: float, solver: str
) -> BudgetError:
    """The error of the variant that can be the fastest."""

    def fastest(key: Key) -> float:
        problem = problems[key]
        return Exact(problem.limited(-math.inf)).dual.least(1)[0]

    key = min(problems, key=fastest)
    try:
        solve_prepared(models[key], problems[key], solver, time_limit_s=time_limit_s, gap=0.0)
    except BudgetError as error:
        return BudgetError(
            f"no variant is within the limits; {key} comes closest: {error.message}", hint=error.hint
        )
    raise AssertionError("a variant without a choice cannot be solved")
