"""What the planning loop finds: each check of a plan, and the plan that is accepted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hwprune.errors import BudgetError
from hwprune.latency.table import LatencyTable
from hwprune.measure.stats import Summary
from hwprune.planner.network import Network
from hwprune.planner.prediction import Prediction
from hwprune.planner.residual import Residual
from hwprune.planner.worth import Side
from hwprune.solve.problem import Problem, Solution

#: A plan that measures this much above its budget is corrected. The next measurement of it, in
#: another minute and in other company, varies by a few percent: so nothing is given away here.
TOLERANCE = 0.005
#: The best plan is refused if it measures more than this above its budget.
OVERRUN = 0.05
#: A plan that leaves more than this share of its budget unused is worth another round.
SLACK = 0.05


@dataclass(frozen=True)
class Begun:
    """What is known before the first plan: the table, and the dense network's latency."""

    table: LatencyTable
    dense: Summary
    dense_sum_ns: float
    residual: Residual


@dataclass(frozen=True)
class Round:
    """One end-to-end check of a solution."""

    predicted_ns: float
    measured_ns: float
    widths: Mapping[str, int]
    removed: frozenset[str] = frozenset()
    resolution: Side | None = None

    def is_of(self, other: Round) -> bool:
        """Whether it is a check of the same network."""
        mine, theirs = ((r.widths, r.removed, r.resolution) for r in (self, other))
        return mine == theirs


@dataclass(frozen=True)
class Attempt:
    """A solution whose kernels were all measured, and its end-to-end latency if that was."""

    solution: Solution
    prediction: Prediction
    problem: Problem
    network: Network
    resolution: Side | None
    measured_ns: float | None = None

    def beats(self, other: Attempt | None, budget_ns: float) -> bool:
        """Plans that keep the budget go by importance; of those that miss it the quickest is best."""
        if other is None:
            return True
        assert self.measured_ns is not None
        assert other.measured_ns is not None
        limit = budget_ns * (1 + TOLERANCE)
        keeps, other_keeps = self.measured_ns <= limit, other.measured_ns <= limit
        if keeps != other_keeps:
            return keeps
        return (
            self.solution.objective > other.solution.objective
            if keeps
            else self.measured_ns < other.measured_ns
        )


@dataclass(frozen=True)
class LoopResult:
    """The accepted solution and how it was reached. Latencies in nanoseconds.

    Attributes
    ----------
    solution
        What is kept.
    prediction
        Its latency with a 95 % interval.
    resolution
        Height and width of the input; None: as it was given.
    dense, dense_sum_ns
        Latency of the dense network, and the sum of its kernels.
    budget_ns
        What was asked for; without a budget, what was predicted.
    measured_ns
        Latency of the solution, brought to the machine's pace when the dense network was timed.
    rounds, refinements
        End-to-end checks, and how often kernels of a solution had to be measured.
    table, residual
        What the prediction comes from.
    problem
        What was solved last.
    """

    solution: Solution
    prediction: Prediction
    dense: Summary
    dense_sum_ns: float
    budget_ns: float
    measured_ns: float | None
    rounds: tuple[Round, ...]
    refinements: int
    table: LatencyTable
    residual: Residual
    problem: Problem
    resolution: Side | None = None
    solve_seconds: float = field(default=0.0)

    @property
    def predicted_ns(self) -> float:
        """Predicted latency of the solution."""
        return self.prediction.latency_ns

    @property
    def kernels_ns(self) -> float:
        """Sum of the solution's kernels."""
        return self.prediction.kernels_ns


def reject_overrun(result: LoopResult) -> None:
    """Raise when no plan kept the budget on the device.

    Raises
    ------
    BudgetError
        With the latency that was reached.
    """
    if result.measured_ns is not None and result.measured_ns > result.budget_ns * (1 + OVERRUN):
        raise BudgetError(
            f"the best plan takes {result.measured_ns / 1e6:.3f} ms on the device, "
            f"above the budget of {result.budget_ns / 1e6:.3f} ms",
            hint="quieten the machine and profile again, or allow a larger budget",
        )
