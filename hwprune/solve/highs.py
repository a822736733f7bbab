"""The linear form solved by HiGHS, one model that is kept between runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from scipy import sparse

from hwprune.errors import PlanError
from hwprune.solve.formulation import Formulation

#: Objective and limits are scaled to this magnitude, so that the solver's absolute tolerances are
#: far below any difference that matters.
_SCALE = 1e3
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Answer:
    """Levels found (within the solver's tolerance), and the bound on the objective that was proven.

    Minus infinity as a bound says that there is no choice within the limits.
    """

    levels: np.ndarray | None
    bound: float


def relaxed_prices(form: Formulation, at_most: np.ndarray, deadline: float) -> np.ndarray:
    """Prices of the limits in the linear relaxation; zeros if it has no solution."""
    program = HighsProgram(form, at_most, relaxed=True)
    return program.prices(deadline)


class HighsProgram:
    """A linear form under limits, in HiGHS.

    Parameters
    ----------
    at_most
        Limits of rows 1 and up of the model.
    relaxed
        Whether all variables are continuous.
    """

    def __init__(self, form: Formulation, at_most: np.ndarray, *, relaxed: bool = False) -> None:
        self.form = form
        self.relaxed = relaxed
        self.worth = _SCALE / (float(form.rows[0].sum()) or _SCALE)
        room = np.maximum(at_most - form.constant[1:], 0.0)
        top = form.rows[1:].max(axis=1, initial=0.0)
        self.scale = _SCALE / np.where(room > 1e-9 * top, room, np.where(top > 0, top, 1.0))
        self.limits = room * self.scale
        self._highs = highspy.Highs()
        options = {"output_flag": False, "threads": 1, "random_seed": 0}
        # A binary that is off by the default 1e-6 could hide a millionth of a limit.
        options |= {"mip_feasibility_tolerance": _TOLERANCE, "primal_feasibility_tolerance": _TOLERANCE}
        for option, value in options.items():
            self._highs.setOptionValue(option, value)
        # "Warning" is the answer for an empty constraint matrix.
        if self._highs.passModel(self._lp()) == highspy.HighsStatus.kError:
            raise PlanError(
                "HiGHS refuses the problem", hint="its costs differ by too many orders of magnitude"
            )

    def solve(self, *, gap: float, deadline: float, start: np.ndarray | None = None) -> Answer:
        """Best levels to a relative gap, from a first choice if there is one (``start``: levels)."""
        highs = self._highs
        left = max(0.05, deadline - time.perf_counter())
        highs.setOptionValue("time_limit", highs.getRunTime() + left)
        highs.setOptionValue("mip_rel_gap", 0.99 * gap)
        x = None if start is None else self.form.encode(start)
        if x is not None:
            solution = highspy.HighsSolution()
            solution.col_value = x.tolist()
            highs.setSolution(solution)
        highs.run()
        if highs.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
            return Answer(None, -np.inf)
        info = highs.getInfo()
        dual = float(info.mip_dual_bound if self.form.binary.size else info.objective_function_value)
        bound = -dual / self.worth if np.isfinite(dual) else np.inf
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return Answer(None, bound)
        return Answer(self.form.decode(np.array(highs.getSolution().col_value)), bound)

    def prices(self, deadline: float) -> np.ndarray:
        """Prices of the limits, of a relaxed program."""
        self._highs.setOptionValue("time_limit", max(0.05, deadline - time.perf_counter()))
        self._highs.run()
        if self._highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return np.zeros(len(self.limits))
        duals = np.array(self._highs.getSolution().row_dual)[: len(self.limits)]
        return np.maximum(-duals, 0.0) * self.scale / self.worth

    def forbid(self, levels: np.ndarray) -> None:
        """Rule out exactly these levels."""
        columns = self.form.columns(levels)
        assert columns is not None
        chosen = columns[self.form.binary[columns]]
        self._highs.addRow(
            -highspy.kHighsInf, chosen.size - 1.0, chosen.size, chosen.astype(np.int32), np.ones(chosen.size)
        )

    def tighten(self, share: float) -> None:
        """Take a share of the size of the limits away from them."""
        self.limits = self.limits - _SCALE * share
        for row, limit in enumerate(self.limits):
            self._highs.changeRowBounds(row, -highspy.kHighsInf, float(limit))

    def _lp(self) -> highspy.HighsLp:
        form, infinity = self.form, highspy.kHighsInf
        columns = form.rows.shape[1]
        matrix = sparse.csc_array(
            sparse.vstack([sparse.csr_array(form.rows[1:] * self.scale[:, None]), form.equal])
        )
        lp: Any = highspy.HighsLp()  # takes arrays, whatever its stubs say
        lp.num_col_, lp.num_row_ = columns, len(self.limits) + len(form.right)
        lp.col_cost_ = -form.rows[0] * self.worth
        lp.offset_ = -float(form.constant[0]) * self.worth
        lp.col_lower_, lp.col_upper_ = np.zeros(columns), np.ones(columns)
        lp.row_lower_ = np.concatenate([np.full(len(self.limits), -infinity), form.right])
        lp.row_upper_ = np.concatenate([self.limits, form.right])
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_ = matrix.indptr.astype(np.int32)
        lp.a_matrix_.index_ = matrix.indices.astype(np.int32)
        lp.a_matrix_.value_ = matrix.data
        kinds = np.zeros(columns, bool)
        kinds[: form.binary.size] = form.binary & (not self.relaxed)
        lp.integrality_ = [
            highspy.HighsVarType.kInteger if kind else highspy.HighsVarType.kContinuous for kind in kinds
        ]
        return lp
