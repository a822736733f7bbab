"""Says why there is no choice within the limits, and which limits there could be."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from hwprune.errors import BudgetError
from hwprune.solve.problem import Choice, Limit, Problem

#: Finds the least of one limit under the others: the choice, whether that is proven; None if there is none.
Least = Callable[[Problem, float], tuple[Choice | None, bool]]
_FLOOR = "importance"


def explain(problem: Problem, least: Least, time_limit_s: float) -> BudgetError:
    """The error for a problem without a solution (or without one that was found in time).

    Every limit is tried alone, then every two of them, until some cannot be kept; the message names
    the closest that can.

    Parameters
    ----------
    least
        Solves a problem that minimises one limit until a deadline (``time.perf_counter``).
    time_limit_s
        Seconds for that.
    """
    deadline = time.perf_counter() + time_limit_s
    names = [limit.name for limit in problem.limits if limit.at_most < math.inf]
    wanted = [*names, *([_FLOOR] if problem.floor > -math.inf else [])]
    for name in wanted:
        error = _alone(problem, name, least, deadline, time_limit_s)
        if error is not None:
            return error
    for one, other in itertools.combinations(wanted, 2):
        error = _together(problem, one, other, least, deadline)
        if error is not None:
            return error
    what = ", ".join(_quoted(problem, name) for name in wanted)
    return BudgetError(
        f"no choice was found that keeps all of {what} (each two of them can be kept)",
        hint="relax one of them, allow smaller widths, or give the solver more time",
    )


def _alone(
    problem: Problem, name: str, least: Least, deadline: float, time_limit_s: float
) -> BudgetError | None:
    choice, proven = least(_minimising(problem, name, ()), deadline)
    if choice is None or _keeps(problem, name, choice):
        return None
    shown = _shown(problem, name, choice)
    if name == _FLOOR:
        return BudgetError(
            f"an importance of {problem.floor:.6g} cannot be kept: "
            f"the {'most' if proven else 'most found'} is {shown}",
            hint=f"ask for {shown} or less",
        )
    limit = problem.limit(name)
    asked = _amount(limit.at_most, limit)
    first = limit is problem.limits[0]
    kind = "latency" if first else name
    if proven:
        what = f"cannot be reached: the least reachable {kind} is {shown}"
    else:
        what = f"was not reached within {time_limit_s:g} s; the least {kind} found is {shown}"
    return BudgetError(
        f"the {'budget' if first else f'limit on {name!r}'} of {asked} {what}",
        hint=f"ask for {shown} or more, or allow smaller widths",
    )


def _together(problem: Problem, one: str, other: str, least: Least, deadline: float) -> BudgetError | None:
    """The error if two limits contradict each other."""
    choice, proven = least(_minimising(problem, one, (other,)), deadline)
    if choice is None or not proven or _keeps(problem, one, choice):
        return None
    shown = _shown(problem, one, choice)
    verb = "no more than" if one == _FLOOR else "no less than"
    return BudgetError(
        f"the limits on {_quoted(problem, one)} and {_quoted(problem, other)} contradict each other: "
        f"with the second, the first can be {verb} {shown}",
        hint="relax one of the two",
    )


def _minimising(problem: Problem, name: str, keep: tuple[str, ...]) -> Problem:
    """Least of one limit (or most importance) with no others but ``keep``."""
    limits = tuple(x if x.name in keep else replace(x, at_most=math.inf) for x in problem.limits)
    floor = problem.floor if _FLOOR in keep else -math.inf
    return replace(problem, limits=limits, floor=floor, minimise=None if name == _FLOOR else name)


def _keeps(problem: Problem, name: str, choice: Choice) -> bool:
    if name == _FLOOR:
        return problem.value(choice) >= problem.floor
    limit = problem.limit(name)
    return problem.usage(limit, choice) <= limit.at_most


def _quoted(problem: Problem, name: str) -> str:
    if name == _FLOOR:
        return f"'importance' (at least {problem.floor:.6g})"
    limit = problem.limit(name)
    return f"'{name}' (at most {_amount(limit.at_most, limit)})"


def _shown(problem: Problem, name: str, choice: Choice) -> str:
    """What a choice reaches, rounded so that asking for the number in the message succeeds."""
    if name == _FLOOR:
        value = problem.value(choice)
        return _rounded(value, lambda x: x <= value, ROUND_FLOOR)
    limit = problem.limit(name)
    usage = problem.usage(limit, choice)
    if limit.unit != "ns":
        return f"{_rounded(usage, lambda x: x >= usage, ROUND_CEILING)} {limit.unit}"
    exact = Decimal(usage) / Decimal(10**6)
    return f"{_rounded(exact, lambda x: x * 1e6 >= usage, ROUND_CEILING)} ms"


def _rounded(exact: float | Decimal, serves: Callable[[float], bool], way: str) -> str:
    for digits in (6, 9, 12, 17):
        rounded = float(Context(prec=digits, rounding=way).plus(Decimal(exact)))
        if serves(rounded):
            return f"{rounded:.{digits}g}"
    # A short number whose product falls just short of what it stands for.
    rounded = float(exact)
    while not serves(rounded):
        rounded = math.nextafter(rounded, math.inf if way == ROUND_CEILING else -math.inf)
    return repr(rounded)


def _amount(value: float, limit: Limit) -> str:
    return f"{value / 1e6:.6g} ms" if limit.unit == "ns" else f"{value:.6g} {limit.unit}"
