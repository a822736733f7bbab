"""The linear form solved by CP-SAT of OR-Tools (the ``[cpsat]`` extra)."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np

from hwprune.errors import PlanError
from hwprune.solve.formulation import Formulation
from hwprune.solve.highs import Answer
from hwprune.solve.milp import solve_exactly
from hwprune.solve.problem import Choice, Problem, Solution

#: Integer units that the room within a limit, and the objective's range, are divided into.
_UNITS = 1e9


def solve_cpsat(
    problem: Problem, *, time_limit_s: float = 30, gap: float = 1e-4, start: Choice | None = None
) -> Solution:
    """:func:`hwprune.solve.milp.solve_milp` with CP-SAT in the place of HiGHS.

    Raises
    ------
    PlanError
        OR-Tools is not installed, or the problem contradicts itself.
    BudgetError
        No choice is within the limits.
    """
    _module()
    return solve_exactly(problem, CpSatProgram, "cpsat", time_limit_s=time_limit_s, gap=gap, start=start)


def _module() -> Any:
    try:
        return importlib.import_module("ortools.sat.python.cp_model")
    except ImportError as error:
        raise PlanError(
            "the cpsat solver needs OR-Tools, which is not installed",
            hint="pip install 'hwprune[cpsat]', or use the milp solver",
        ) from error


class CpSatProgram:
    """A linear form under limits, with integer costs.

    Costs are rounded down and limits kept, so no choice within the limits is lost; the objective is
    rounded up, so its bound is one. What rounding lets through above a limit, the caller rejects.
    """

    def __init__(self, form: Formulation, at_most: np.ndarray) -> None:
        self.form = form
        cp = _module()
        self._cp = cp
        self._model = cp.CpModel()
        self._x = [self._model.new_bool_var("") for _ in range(form.rows.shape[1])]
        self.room = np.maximum(at_most - form.constant[1:], 0.0)
        top = form.rows[1:].max(axis=1, initial=0.0)
        self.scale = _UNITS / np.where(self.room > 0, self.room, np.where(top > 0, top, 1.0))
        for row in range(len(form.right)):
            span = slice(form.equal.indptr[row], form.equal.indptr[row + 1])
            self._linear(form.equal.indices[span], form.equal.data[span].astype(int), int(form.right[row]))
        self._limit()
        self.worth = _UNITS / (float(form.rows[0].sum()) or _UNITS)
        self._objective = np.ceil(form.rows[0] * self.worth).astype(np.int64)
        where = np.flatnonzero(self._objective)
        self._model.maximize(
            cp.LinearExpr.weighted_sum([self._x[i] for i in where], [int(c) for c in self._objective[where]])
        )

    def solve(self, *, gap: float, deadline: float, start: np.ndarray | None = None) -> Answer:
        """Best levels to a relative gap, from a first choice if there is one."""
        solver = self._cp.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        solver.parameters.max_time_in_seconds = max(0.05, deadline - time.perf_counter())
        base = abs(self.form.constant[0]) * self.worth
        # The gap is one of the whole objective, of which the solver only sees what can change.
        solver.parameters.absolute_gap_limit = max(0.0, 0.5 * gap * base)
        solver.parameters.relative_gap_limit = 0.5 * gap
        self._model.clear_hints()
        x = None if start is None else self.form.encode(start)
        if x is not None:
            for variable, value in zip(self._x, x, strict=True):
                self._model.add_hint(variable, int(value))
        status = solver.solve(self._model)
        if status == self._cp.INFEASIBLE:
            return Answer(None, -np.inf)
        bound = float(self.form.constant[0] + solver.best_objective_bound / self.worth)
        if status not in (self._cp.OPTIMAL, self._cp.FEASIBLE):
            return Answer(None, np.inf)
        values = np.array([solver.boolean_value(variable) for variable in self._x], float)
        return Answer(self.form.decode(values), bound)

    def forbid(self, levels: np.ndarray) -> None:
        """Rule out exactly these levels."""
        columns = self.form.columns(levels)
        assert columns is not None
        self._model.add_bool_or([self._x[i].negated() for i in columns if self.form.binary[i]])

    def tighten(self, share: float) -> None:
        """Take a share of the size of the limits away from them."""
        self.room = self.room * (1.0 - share)
        self._limit()

    def _limit(self) -> None:
        for row, room in enumerate(self.room):
            costs = np.floor(self.form.rows[row + 1] * self.scale[row])
            limit = int(np.floor(room * self.scale[row]))
            # More than the limit is more than the limit: keeps the integers small.
            costs = np.minimum(costs, limit + 1).astype(np.int64)
            where = np.flatnonzero(costs)
            self._model.add_linear_constraint(self._sum(where, costs[where]), -(2**62), limit)

    def _linear(self, columns: np.ndarray, entries: np.ndarray, right: int) -> None:
        self._model.add_linear_constraint(self._sum(columns, entries), right, right)

    def _sum(self, columns: np.ndarray, entries: np.ndarray) -> Any:
        return self._cp.LinearExpr.weighted_sum([self._x[i] for i in columns], [int(e) for e in entries])
