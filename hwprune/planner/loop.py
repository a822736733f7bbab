"""Profile, solve, measure, correct: until a plan keeps its budget on the device.

1. The grid of every kernel family is profiled through the shipping pipeline.
2. The dense network is built and timed end to end; what its kernels do not explain is the
   residual.
3. The exact program is solved. Kernels of the solution that were only interpolated are measured,
   and it is solved again, until every kernel of the solution is a row of the table.
4. The solution is built and timed end to end beside the dense network. If it misses the budget,
   or leaves much of it unused, the residual is corrected and the program is solved again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hwprune.errors import BudgetError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.predict import LatencyModel
from hwprune.latency.program import Program
from hwprune.latency.table import LatencyTable
from hwprune.measure.stats import Summary
from hwprune.planner.residual import Residual
from hwprune.solve.budget import parse_budget
from hwprune.solve.domains import domain_values
from hwprune.solve.milp import solve_milp
from hwprune.solve.problem import Domain, Problem, Solution, Term

logger = logging.getLogger(__name__)

#: A plan that measures this much above its budget is corrected. The next measurement of it, in
#: another minute and in other company, varies by a few percent: so nothing is given away here.
TOLERANCE = 0.005
#: The best plan is refused if it measures more than this above its budget.
OVERRUN = 0.05
#: A plan that leaves more than this share of its budget unused is worth another round.
SLACK = 0.05
#: Rounds of measuring kernels that a solution uses but the table lacks.
MAX_REFINEMENTS = 12

TimeNetworks = Callable[[Mapping[str, Program]], Mapping[str, Summary]]
Profile = Callable[[Sequence[KernelSpec]], LatencyTable]


@dataclass(frozen=True)
class Round:
    """One end-to-end check of a solution."""

    predicted_ns: float
    measured_ns: float
    widths: Mapping[str, int]


@dataclass(frozen=True)
class Begun:
    """What is known before the first plan: the table, and the dense network's latency."""

    table: LatencyTable
    dense: Summary
    dense_sum_ns: float
    residual: Residual


@dataclass(frozen=True)
class LoopResult:
    """The accepted solution and how it was reached. Latencies in nanoseconds."""

    solution: Solution
    dense: Summary
    dense_sum_ns: float
    budget_ns: float
    predicted_ns: float
    measured_ns: float | None
    kernels_ns: float
    rounds: tuple[Round, ...]
    refinements: int
    table: LatencyTable
    solve_seconds: float = field(default=0.0)


class PlanningLoop:
    """The loop for one network.

    Parameters
    ----------
    model
        Kernel families over the widths that may be chosen.
    values
        For every group one comparable score per unit; higher means keep.
    profile
        Measures kernels that the table lacks and returns the table.
    time_networks
        Times programs end to end, interleaved.
    program_at
        The network, for timing, at given widths.
    solve
        The solver.
    shape
        What else is asked of a plan: adds limits and floors to a problem, or narrows it.
    """

    def __init__(
        self,
        model: LatencyModel,
        values: Mapping[str, np.ndarray],
        *,
        profile: Profile,
        time_networks: TimeNetworks,
        program_at: Callable[[Mapping[str, int]], Program],
        solve: Callable[[Problem], Solution] = solve_milp,
        shape: Callable[[Problem], Problem] = lambda problem: problem,
    ) -> None:
        self.model = model
        self.profile = profile
        self.time_networks = time_networks
        self.program_at = program_at
        self.solve = solve
        self.shape = shape
        self.domains = tuple(
            Domain(group, widths, domain_values(values[group], widths))
            for group, widths in model.domains.items()
        )
        self.dense_widths = {group: widths[-1] for group, widths in model.domains.items()}
        self.refinements = 0
        self.solve_seconds = 0.0

    def begin(self) -> Begun:
        """Measure the grid of every kernel family, and the dense network end to end."""
        dense_kernels = list({s.canonical(): s for s in self.model.kernels(self.dense_widths)}.values())
        table = self.profile([*self.model.specs(), *dense_kernels])
        dense_sum = self.model.sum_ns(self.dense_widths, table)
        dense = self.time_networks({"dense": self.program_at(self.dense_widths)})["dense"]
        return Begun(table, dense, dense_sum, Residual.from_dense(dense_sum, dense.median))

    def run(self, latency: str | float | None, *, checks: int = 3, begun: Begun | None = None) -> LoopResult:
        """Find a plan for a budget; ``checks`` bounds the end-to-end measurements (0: none).

        Without a budget (None) the problem's ``shape`` must ask for something; the result's budget is
        then the latency that was predicted. ``begun`` is what :meth:`begin` returned, if it was called.

        Raises
        ------
        BudgetError
            Malformed, unreachable (the message says what can be reached), or already met.
        """
        begun = begun or self.begin()
        table, dense, residual = begun.table, begun.dense, begun.residual
        dense_sum = begun.dense_sum_ns
        budget = math.inf if latency is None else parse_budget(latency, dense.median)
        rounds: list[Round] = []
        best: tuple[Solution, float, float | None] | None = None
        while True:
            try:
                solution, table = self._solve_measured(table, residual, budget)
            except BudgetError:
                # The corrected residual puts the budget out of reach; a plan that nearly keeps it counts.
                if best is None or best[2] is None or best[2] > budget * (1 + OVERRUN):
                    raise
                break
            predicted = residual.latency_ns(self.model.sum_ns(solution.widths, table))
            if checks == 0:
                best = (solution, predicted, None)
                break
            measured = self._check(solution, dense)
            rounds.append(Round(predicted, measured, dict(solution.widths)))
            logger.info("predicted %.3f ms, measured %.3f ms", predicted / 1e6, measured / 1e6)
            if _better(measured, solution, best, budget):
                best = (solution, predicted, measured)
            good = budget * (1 - SLACK) <= measured <= budget * (1 + TOLERANCE)
            if good or latency is None or len(rounds) >= checks or self._is_repeat(rounds):
                break
            residual = residual.with_point(self.model.sum_ns(solution.widths, table), measured)
        assert best is not None
        solution, predicted, measured_ns = best
        return LoopResult(
            solution=replace(solution, usage={**solution.usage, "latency": predicted}),
            dense=dense,
            dense_sum_ns=dense_sum,
            budget_ns=budget if latency is not None else predicted,
            predicted_ns=predicted,
            measured_ns=measured_ns,
            kernels_ns=self.model.sum_ns(solution.widths, table),
            rounds=tuple(rounds),
            refinements=self.refinements,
            table=table,
            solve_seconds=self.solve_seconds,
        )

    def _solve_measured(
        self, table: LatencyTable, residual: Residual, budget: float
    ) -> tuple[Solution, LatencyTable]:
        """Solve, measuring what the solution needs, until all of its kernels are in the table."""
        only_measured = False
        for attempt in range(MAX_REFINEMENTS + 1):
            only_measured |= attempt == MAX_REFINEMENTS
            solution = self.solve(self.problem(table, residual, budget, only_measured=only_measured))
            self.solve_seconds = max(self.solve_seconds, solution.seconds)
            missing = self.model.missing(solution.widths, table)
            if not missing:
                return solution, table
            self.refinements += 1
            table = self.profile(missing)
            # Where nothing can be measured (the device is away) there is no use in asking again.
            only_measured |= all(table.get(spec) is None for spec in missing)
        raise AssertionError("a solution over measured kernels only cannot miss a kernel")

    def problem(
        self, table: LatencyTable, residual: Residual, budget: float, *, only_measured: bool = False
    ) -> Problem:
        """The program to be solved; ``budget`` in nanoseconds, infinite for none."""
        unaffordable = 2.0 * (budget if math.isfinite(budget) else residual.points[0][1])
        terms: list[Term] = []
        fixed = residual.offset_ns
        for cost in self.model.costs(table):
            values = cost.cost_ns * residual.factor
            if only_measured:
                # Interpolated entries become unaffordable, so that the loop ends.
                values = np.where(cost.measured, values, unaffordable)
            if cost.family.groups:
                terms.append(Term(cost.family.name, cost.family.groups, values))
            else:
                fixed += float(values)
        return self.shape(Problem.of_latency(self.domains, tuple(terms), fixed, budget))

    def _check(self, solution: Solution, dense: Summary) -> float:
        """Measured latency of a solution, corrected by how far the dense network has drifted."""
        times = self.time_networks(
            {"dense": self.program_at(self.dense_widths), "pruned": self.program_at(solution.widths)}
        )
        return times["pruned"].median * dense.median / times["dense"].median

    def _is_repeat(self, rounds: list[Round]) -> bool:
        return any(r.widths == rounds[-1].widths for r in rounds[:-1])


def _better(
    measured: float, solution: Solution, best: tuple[Solution, float, float | None] | None, budget: float
) -> bool:
    """Plans that keep the budget go by importance; of those that miss it the quickest is best."""
    if best is None:
        return True
    limit = budget * (1 + TOLERANCE)
    other = best[2]
    assert other is not None
    if (measured <= limit) != (other <= limit):
        return measured <= limit
    return solution.value > best[0].value if measured <= limit else measured < other


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
