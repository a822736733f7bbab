"""The optimal choice of widths under a latency budget, by mixed-integer linear programming.

The formulation is in :mod:`hwprune.solve.formulation`; HiGHS (through SciPy) solves it to a proven
gap. Its answer is only ever believed after the problem itself has priced it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

import numpy as np
from scipy import optimize, sparse

from hwprune.errors import BudgetError
from hwprune.solve.formulation import Formulation, formulate
from hwprune.solve.greedy import lower_greedily
from hwprune.solve.problem import Choice, Problem, Solution
from hwprune.solve.quiet import quiet_stdout
from hwprune.solve.terms import check_problem, latency_of

_log = logging.getLogger(__name__)

#: Objective and latency row are scaled to this magnitude, so that the solver's absolute
#: tolerances (1e-6) are far below any difference that matters.
_SCALE = 1e3
_OPTIMAL, _INFEASIBLE = 0, 2
_CUTS = 12
_ATTEMPTS = 30


def solve_milp(problem: Problem, *, time_limit_s: float = 30, gap: float = 1e-4) -> Solution:
    """Widths of the greatest kept importance whose latency meets the budget.

    Deterministic unless the time limit strikes, in which case the best choice found so far is
    returned with the bound proven so far.

    Parameters
    ----------
    time_limit_s
        Seconds for the solver.
    gap
        Relative gap between value and proven bound at which it may stop.

    Raises
    ------
    BudgetError
        No choice of widths meets the budget; the message names the least reachable latency.
    PlanError
        The problem contradicts itself, or one of its terms is too large.
    """
    start = time.perf_counter()
    check_problem(problem)
    ceiling = sum(max(d.values) for d in problem.domains)
    dense = {d.group: d.widths[-1] for d in problem.domains}
    if latency_of(problem, dense) <= problem.limits[0].at_most and problem.value(Choice(dense)) >= ceiling:
        return _solution(problem, dense, ceiling, start)
    form = formulate(problem)
    search = _maximise(form, start + time_limit_s, gap)
    # Greedy is nearly free, and inside the gap it may happen to be the better one.
    widths, _ = lower_greedily(problem)
    found = [w for w in (search.widths, widths) if w and latency_of(problem, w) <= problem.limits[0].at_most]
    if not found:
        found = [_least_or_raise(form, time_limit_s)]
    best = max(found, key=lambda widths: problem.value(Choice(widths)))
    # Minus infinity says "infeasible", which what was found has just disproved.
    bound = min(search.bound, ceiling) if search.bound > -np.inf else ceiling
    return _solution(problem, best, bound, start)


def least_latency(problem: Problem, *, time_limit_s: float = 30) -> tuple[dict[str, int], float]:
    """The fastest choice of widths and its latency in nanoseconds, whatever the budget.

    Costs need not fall with the width, so this is not simply the smallest width everywhere.
    When the time limit strikes it is the fastest choice found so far.
    """
    check_problem(problem)
    widths, latency, _ = _least(formulate(problem), time_limit_s)
    return widths, latency


@dataclass(frozen=True)
class _Search:
    widths: dict[str, int] | None
    bound: float


def _maximise(form: Formulation, deadline: float, gap: float) -> _Search:
    """Best choice that truly meets the budget, and a valid bound on the value of any."""
    problem = form.problem
    room = problem.limits[0].at_most - form.constant_ns
    if room < -1e-9 * abs(problem.limits[0].at_most):
        return _Search(None, -np.inf)
    room = max(room, 0.0)  # a rounding error below the sum of all least costs is not infeasible
    top = float(form.latency_ns.max(initial=0.0))
    ns = _SCALE / (room if room > 1e-9 * top else max(top, 1.0))
    worth = _SCALE / max(float(np.abs(form.value).sum()), 1e-300)
    limit = room * ns
    latency = sparse.csr_array(form.latency_ns[None, :] * ns)
    cuts: list[np.ndarray] = []
    bound = np.inf
    for attempt in range(_ATTEMPTS):
        rows = [_equations(form), optimize.LinearConstraint(latency, -np.inf, limit)]
        rows += [_not_again(form, cut) for cut in cuts]
        result = _highs(form, -form.value * worth, rows, deadline, gap)
        if attempt <= _CUTS:  # afterwards the budget is tightened, and bounds no longer hold
            bound = min(bound, _bound(result, worth))
        if result.x is None:
            return _Search(None, bound)
        widths = form.widths(result.x)
        excess = latency_of(problem, widths) - problem.limits[0].at_most
        if excess <= 0:
            return _Search(widths, bound)
        # Within the solver's tolerance, but above the budget: forbid exactly this choice. Only if
        # that does not end soon, give up the last bit of budget instead.
        _log.debug("choice exceeds the budget by %g ns; cut off", excess)
        cuts.append(form.chosen(widths))
        if attempt >= _CUTS:
            limit -= _SCALE * 1e-9 * 2 ** (attempt - _CUTS)
    return _Search(None, bound)


def _equations(form: Formulation) -> optimize.LinearConstraint:
    right: Any = form.right  # SciPy takes arrays here; its stubs say float
    return optimize.LinearConstraint(form.equal, right, right)


def _not_again(form: Formulation, chosen: np.ndarray) -> optimize.LinearConstraint:
    row = sparse.csr_array(
        (np.ones(len(chosen)), (np.zeros(len(chosen), dtype=int), chosen)), shape=(1, len(form.value))
    )
    return optimize.LinearConstraint(row, -np.inf, len(chosen) - 1)


def _highs(
    form: Formulation,
    objective: np.ndarray,
    rows: list[optimize.LinearConstraint],
    deadline: float,
    gap: float,
) -> optimize.OptimizeResult:
    integral = np.zeros(len(objective))
    integral[: form.binaries] = 1
    options = {
        "disp": False,
        "presolve": True,
        "mip_rel_gap": gap,
        "time_limit": max(0.1, deadline - time.perf_counter()),
    }
    with quiet_stdout():
        return optimize.milp(
            objective, integrality=integral, bounds=optimize.Bounds(0, 1), constraints=rows, options=options
        )


def _bound(result: optimize.OptimizeResult, worth: float) -> float:
    if result.status == _INFEASIBLE:
        return -np.inf
    dual = getattr(result, "mip_dual_bound", None)
    return np.inf if dual is None or not np.isfinite(dual) else -float(dual) / worth


def _least(form: Formulation, time_limit_s: float) -> tuple[dict[str, int], float, bool]:
    """Fastest choice, its latency, and whether it is proven to be the fastest."""
    scale = _SCALE / max(float(form.latency_ns.max(initial=0.0)), 1e-300)
    rows = [_equations(form)]
    result = _highs(form, form.latency_ns * scale, rows, time.perf_counter() + time_limit_s, 0.0)
    smallest = {d.group: d.widths[0] for d in form.problem.domains}
    choices = [smallest] if result.x is None else [form.widths(result.x), smallest]
    best = min(choices, key=lambda widths: latency_of(form.problem, widths))
    return best, latency_of(form.problem, best), result.status == _OPTIMAL


def _least_or_raise(form: Formulation, time_limit_s: float) -> dict[str, int]:
    widths, least, proven = _least(form, time_limit_s)
    budget = form.problem.limits[0].at_most
    if least <= budget:
        return widths
    shown = f"{_milliseconds(least)} ms"
    if proven:
        what = f"cannot be reached: the least reachable latency is {shown}"
    else:
        what = f"was not reached within {time_limit_s:g} s; the least latency found is {shown}"
    raise BudgetError(
        f"the budget of {budget / 1e6:.6g} ms {what}",
        hint=f"ask for {shown} or more, or allow smaller widths",
    )


def _milliseconds(least_ns: float) -> str:
    """Rounded up to few digits, so that asking for the number in the message succeeds."""
    exact = Decimal(least_ns) / Decimal(10**6)
    for digits in (6, 9, 12):
        rounded = Context(prec=digits, rounding=ROUND_CEILING).plus(exact)
        if float(rounded) * 1e6 >= least_ns:
            return f"{float(rounded):.{digits}g}"
    return repr(float(exact) * (1 + 1e-12))


def _solution(problem: Problem, widths: Mapping[str, int], bound: float, start: float) -> Solution:
    return Solution.of(
        problem, Choice(dict(widths)), bound=bound, seconds=time.perf_counter() - start, solver="milp"
    )
