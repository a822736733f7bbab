"""The optimal choice, with its proof.

1. Prices on the limits give a bound on every choice (:mod:`hwprune.solve.lagrange`); the choices met
   on the way, greedy search and the caller's own start are improved by local search.
2. Whatever cannot be part of a better choice by these bounds is ruled out: widths, blocks, and
   combinations of them. What is left is bounded again, until nothing more falls.
3. The rest is a small mixed-integer linear program (:mod:`hwprune.solve.formulation`) for HiGHS or
   CP-SAT. Its answer is only ever believed after the problem itself has priced it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from hwprune.solve.formulation import Formulation, formulate
from hwprune.solve.highs import Answer, HighsProgram, relaxed_prices
from hwprune.solve.lagrange import Dual, Prices
from hwprune.solve.local import Improver
from hwprune.solve.model import Model, build_model
from hwprune.solve.problem import Problem

_log = logging.getLogger(__name__)

#: Choices that are improved by local search per round.
_STARTS = 3
#: Rounds of ruling out and bounding again.
_ROUNDS = 6
_CUTS = 12
_ATTEMPTS = 30
#: Below this many entries left, bounding again costs more than the linear program.
_FEW = 40
#: Above this many limits, prices begin with those of the linear relaxation.
_SEVERAL = 3
#: Above this many, the linear program is solved in windows below the bound, as shares of the gap.
_MANY = 150
_WINDOWS = (0.1, 0.25, 0.5)


class Program(Protocol):
    """A linear form under limits, held by a solver."""

    def solve(self, *, gap: float, deadline: float, start: np.ndarray | None = None) -> Answer:
        """Best levels to a relative gap."""
        ...

    def forbid(self, levels: np.ndarray) -> None:
        """Rule out exactly these levels."""
        ...

    def tighten(self, share: float) -> None:
        """Take a share of the size of the limits away from them."""
        ...


Backend = Callable[[Formulation, np.ndarray], Program]


@dataclass(frozen=True)
class Found:
    """Levels of the best choice (``None``: there was none), and the bound on the objective of any."""

    levels: np.ndarray | None
    bound: float


@dataclass
class Exact:
    """One model of a problem, solved for one or many sets of limits.

    Parameters
    ----------
    problem
        Checked already. Its limits only decide which rows the model has: those that some choice
        could break.
    backend
        Solver for the linear form.
    reduce
        Whether bounds rule out choices before the linear form is made.
    """

    problem: Problem
    backend: Backend = HighsProgram
    reduce: bool = True
    model: Model = field(init=False)
    dual: Dual = field(init=False)

    def __post_init__(self) -> None:
        self.model = build_model(self.problem)
        self.dual = Dual(self.model)
        self._improver = Improver(self.model)

    def solve(
        self,
        problem: Problem,
        *,
        gap: float,
        deadline: float,
        starts: Sequence[np.ndarray] = (),
    ) -> Found:
        """Best choice for a problem that differs from the model's at most in its limits.

        Parameters
        ----------
        deadline
            By ``time.perf_counter``.
        starts
            Settled levels to begin with; those that break a limit are left out.
        """
        return _Run(self, problem, gap, deadline).run(starts)

    def limits(self, problem: Problem) -> np.ndarray:
        """Limits of rows 1 and up."""
        known = {f"limit {limit.name}": limit.at_most for limit in problem.limits}
        known["floor"] = -problem.floor
        return np.array([known[row] for row in self.model.rows[1:]])

    def improve(self, levels: np.ndarray, at_most: np.ndarray, deadline: float) -> np.ndarray:
        """Local search from levels within the limits."""
        return self._improver.improve(levels, at_most, deadline)


class _Run:
    def __init__(self, exact: Exact, problem: Problem, gap: float, deadline: float) -> None:
        self.exact, self.model, self.dual = exact, exact.model, exact.dual
        self.problem, self.gap, self.deadline = problem, gap, deadline
        self.at_most = exact.limits(problem)
        self.best: np.ndarray | None = None
        self.reached = -math.inf
        self.tried: set[bytes] = set()

    def run(self, starts: Sequence[np.ndarray]) -> Found:
        for levels in starts:
            self._take(levels)
        if not self.exact.reduce:
            return self._finish(None, math.inf)
        prices = self.prices()
        if prices is None:
            return Found(None, -math.inf)
        bound, allowed = prices.bound, None
        for _ in range(_ROUNDS):
            self._improve(bound)
            if self._is_enough(bound):
                return Found(self.best, min(bound, self.model.most()))
            left = _count(self.model, allowed)
            reach = self._reach(prices)
            allowed = self._allowed(reach, self.reached, allowed)
            now = _count(self.model, allowed)
            if now < _FEW or now > 0.8 * left or time.perf_counter() > self.deadline:
                return self._windows(allowed, reach, bound)
            prices = self.dual.search(
                self.at_most, enough=self.reached, allowed=allowed, deadline=self.deadline
            )
            if prices.bound == -math.inf:
                return Found(self.best, self.reached)
            bound = max(self.reached, min(bound, prices.bound))
        return self._windows(allowed, None, bound)

    def _windows(
        self, allowed: list[np.ndarray] | None, reach: list[np.ndarray] | None, bound: float
    ) -> Found:
        """Solve the linear form of what may reach values close to the bound, then further below.

        An answer within a window is the best of all: what lies outside cannot reach it. If there
        is none, the end of the window is a new bound.
        """
        if reach is not None and self.reached > -math.inf and _count(self.model, allowed) > _MANY:
            width = bound - self.reached
            for share in _WINDOWS:
                end = bound - share * width
                if end <= self.reached or time.perf_counter() > self.deadline:
                    break
                found = self._finish(self._allowed(reach, end, allowed), math.inf)
                bound = min(bound, max(end, found.bound))
                if self._is_enough(bound):
                    return Found(self.best, bound)
            allowed = self._allowed(reach, self.reached, allowed)
        return self._finish(allowed, bound)

    def prices(self) -> Prices | None:
        """Least bound; ``None`` if some limit cannot be kept by any choice."""
        for row in range(1, len(self.model.rows)):
            least, levels = self.dual.least(row)
            self._take(levels)
            size = abs(self.at_most[row - 1]) + abs(least)
            if least > self.at_most[row - 1] + 1e-9 * size:
                return None
        first = None
        if len(self.at_most) > _SEVERAL and self.deadline < math.inf:
            # Cutting planes find their way slowly in many dimensions; the linear program does not.
            form = formulate(self.model)
            if form is not None and form.rows.shape[1]:
                first = relaxed_prices(form, self.at_most, self.deadline)
        return self.dual.search(self.at_most, first=first, deadline=self.deadline)

    def _take(self, levels: np.ndarray) -> bool:
        """Remember levels if they are within all limits and the best so far."""
        choice = self.model.choice(levels)
        value = self.problem.objective(choice)
        if value <= self.reached or not self.problem.keeps(choice):
            return False
        self.best, self.reached = levels, value
        return True

    def _improve(self, bound: float) -> None:
        """Local search from the best choices that were met, until one is good enough."""
        pool = self.dual.pool.values()
        fits = [(rows[0], levels) for levels, rows in pool if (rows[1:] <= self.at_most).all()]
        if self.best is not None:
            fits.append((self.reached, self.best))
        for _, levels in sorted(fits, key=lambda pair: -pair[0])[:_STARTS]:
            if self._is_enough(bound) or time.perf_counter() > self.deadline:
                return
            if levels.tobytes() in self.tried:
                continue
            self.tried.add(levels.tobytes())
            better = self.exact.improve(levels, self.at_most, self.deadline)
            self.tried.add(better.tobytes())
            # Sums in another order may put a choice a rounding error above a limit.
            if not self._take(better):
                self._take(levels)

    def _is_enough(self, bound: float) -> bool:
        if self.best is None:
            return bound <= self.reached
        return bound - self.reached <= self.gap * max(abs(bound), 1e-12)

    def _reach(self, prices: Prices) -> list[np.ndarray]:
        """Per factor a bound on the objective of all choices with each entry."""
        return [m + prices.offset for m in self.dual.elimination.marginals(prices.swept)]

    def _allowed(
        self, reach: list[np.ndarray], least: float, before: list[np.ndarray] | None
    ) -> list[np.ndarray] | None:
        """Entries that a choice of at least some objective may have."""
        if least == -math.inf:
            return before
        allowed = [m >= least for m in reach]
        return allowed if before is None else [a & b for a, b in zip(allowed, before, strict=True)]

    def _finish(self, allowed: list[np.ndarray] | None, bound: float) -> Found:
        """Solve the linear form of what is allowed; what is not was proven not to be better."""
        form = formulate(self.model, allowed)
        room = None if form is None else self.at_most - form.constant[1:]
        if form is None or room is None or (room < -1e-9 * np.abs(self.at_most)).any():
            return Found(self.best, self.reached)
        if not form.rows.shape[1]:  # one choice is left
            self._take(form.decode(np.zeros(0)))
            return Found(self.best, self.reached)
        program = self.exact.backend(form, self.at_most)
        proven = math.inf
        for attempt in range(_ATTEMPTS):
            answer = program.solve(gap=self.gap, deadline=self.deadline, start=self.best)
            if attempt <= _CUTS:  # afterwards the limits are tightened, and bounds no longer hold
                proven = min(proven, answer.bound)
            if answer.levels is None or self.problem.keeps(self.model.choice(answer.levels)):
                if answer.levels is not None:
                    self._take(answer.levels)
                break
            # Within the solver's tolerance, but above a limit: forbid exactly this choice. Only if
            # that does not end soon, give up the last bit of the limits instead.
            _log.debug("a choice exceeds a limit by a rounding error; cut off")
            program.forbid(answer.levels)
            if attempt >= _CUTS:
                program.tighten(1e-9 * 2 ** (attempt - _CUTS))
        bound = min(bound, proven, self.model.most())
        return Found(self.best, max(self.reached, bound))


def _count(model: Model, allowed: list[np.ndarray] | None) -> int:
    """Entries that are left."""
    if allowed is None:
        return sum(math.prod(f.shape) for f in model.factors)
    return sum(int(a.sum()) for a in allowed)
