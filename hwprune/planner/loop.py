"""Profile, solve, measure, correct: until a plan keeps its budget on the device.

1. Of every kernel family so many kernels are measured through the shipping pipeline that they enclose
   all widths on offer; what a table has need not be measured again.
2. The dense network is built and timed end to end; what its kernels do not explain is the
   residual.
3. The exact program is solved. Kernels of the solution that were only interpolated are measured,
   and it is solved again, until every kernel of the solution is a row of the table.
4. The solution is built, without the blocks that it leaves out, and timed end to end beside the dense
   network. If it misses the budget, or leaves much of it unused, the residual is fitted to all
   networks measured so far and the program is solved again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np

from hwprune.errors import BudgetError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.predict import KernelSum
from hwprune.latency.program import Program
from hwprune.latency.table import LatencyTable
from hwprune.measure.stats import Summary
from hwprune.planner.network import Column, Network
from hwprune.planner.outcome import (
    OVERRUN,
    SLACK,
    TOLERANCE,
    Attempt,
    Begun,
    LoopResult,
    Round,
    reject_overrun,
)
from hwprune.planner.prediction import predict
from hwprune.planner.problem import build_problem
from hwprune.planner.residual import Residual
from hwprune.planner.worth import Side, Worth
from hwprune.solve.budget import parse_budget
from hwprune.solve.milp import solve_milp
from hwprune.solve.problem import Problem, Solution
from hwprune.solve.variants import best_of

logger = logging.getLogger(__name__)

__all__ = ["OVERRUN", "SLACK", "TOLERANCE", "Begun", "LoopResult", "PlanningLoop", "Round", "reject_overrun"]

#: Rounds of measuring kernels that a solution uses but the table lacks.
MAX_REFINEMENTS = 12

TimeNetworks = Callable[[Mapping[str, Program]], Mapping[str, Summary]]
Profile = Callable[[Sequence[KernelSpec]], LatencyTable]


@runtime_checkable
class ChoosesResolution(Protocol):
    """A solver that sees the problems of all input resolutions at once, and chooses itself."""

    def best_of(self, problems: Mapping[Side | None, Problem]) -> tuple[Side | None, Solution]:
        """A resolution, and the solution there."""
        ...


class PlanningLoop:
    """The loop for one network.

    Parameters
    ----------
    network
        The network at its own input resolution.
    worth
        What widths, blocks and resolutions are worth; or, for every group, one comparable score per
        unit, of which higher means keep.
    profile
        Measures kernels that the table lacks and returns the table.
    time_networks
        Times programs end to end, interleaved.
    depth
        Residual blocks may be removed.
    columns
        The same network at the input resolutions to choose from (default: its own).
    known
        The table as it is. Without it the whole grid of every kernel family is asked for.
    solve
        The solver; one that chooses among resolutions itself is given the problems of all of them.
    shape
        What else is asked of a plan: adds limits and floors to a problem, or narrows it.
    unit
        Unit of the measurements, in which absolute budgets are understood.
    """

    def __init__(
        self,
        network: Network,
        worth: Worth | Mapping[str, np.ndarray],
        *,
        profile: Profile,
        time_networks: TimeNetworks,
        depth: bool = False,
        columns: Sequence[Column] = (),
        known: LatencyTable | None = None,
        solve: Callable[[Problem], Solution] | ChoosesResolution = solve_milp,
        shape: Callable[[Problem], Problem] = lambda problem: problem,
        unit: str = "ns",
    ) -> None:
        self.network = network
        self.worth = worth if isinstance(worth, Worth) else Worth.of_scores(worth, network.model.domains)
        self.profile = profile
        self.time_networks = time_networks
        self.depth = depth
        self.columns = tuple(columns) or (Column(network),)
        self.known = known
        self.solve = solve
        self.shape = shape
        self.unit = unit
        self.refinements = 0
        self.solve_seconds = 0.0

    def begin(self) -> Begun:
        """Measure what every kernel family lacks, and the dense network end to end."""
        model, dense_widths = self.network.model, self.network.dense
        wanted: list[KernelSpec] = []
        # What pruning can do is judged at the network's own resolution, whether it is on offer or not.
        for other in dict.fromkeys((model, *(column.network.model for column in self.columns))):
            wanted += other.specs() if self.known is None else other.unpriced(self.known)
        if self.known is None:
            wanted += model.kernels(dense_widths)
        else:
            wanted += model.missing(dense_widths, self.known)
        distinct = list({spec.canonical(): spec for spec in wanted}.values())
        table = self.profile(distinct) if distinct or self.known is None else self.known
        dense_sum = model.predict(dense_widths, table)
        dense = self.time_networks({"dense": self.network.program_at(dense_widths)})["dense"]
        return Begun(table, dense, dense_sum.ns, Residual.fit([dense_sum], [dense.median]))

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
        budget = math.inf if latency is None else parse_budget(latency, dense.median, unit=self.unit)
        rounds: list[Round] = []
        best: Attempt | None = None
        while True:
            try:
                attempt, table = self._solve_measured(table, residual, budget)
            except BudgetError:
                # The corrected residual puts the budget out of reach; a plan that nearly keeps it counts.
                if best is None or best.measured_ns is None or best.measured_ns > budget * (1 + OVERRUN):
                    raise
                break
            if checks == 0:
                best = attempt
                break
            measured = self._check(attempt, dense)
            attempt = replace(attempt, measured_ns=measured)
            rounds.append(_round(attempt, measured))
            if attempt.beats(best, budget):
                best = attempt
            good = budget * (1 - SLACK) <= measured <= budget * (1 + TOLERANCE)
            repeated = any(rounds[-1].is_of(earlier) for earlier in rounds[:-1])
            if good or latency is None or len(rounds) >= checks or repeated:
                break
            residual = residual.with_point(self._kernels(attempt, table), measured)
        assert best is not None
        name = best.problem.limits[0].name
        usage = {**best.solution.usage, name: best.prediction.latency_ns}
        return LoopResult(
            solution=replace(best.solution, usage=usage),
            prediction=best.prediction,
            dense=dense,
            dense_sum_ns=begun.dense_sum_ns,
            budget_ns=budget if latency is not None else best.prediction.latency_ns,
            measured_ns=best.measured_ns,
            rounds=tuple(rounds),
            refinements=self.refinements,
            table=table,
            residual=residual,
            problem=best.problem,
            resolution=best.resolution,
            solve_seconds=self.solve_seconds,
        )

    def problem(
        self,
        table: LatencyTable,
        residual: Residual,
        budget: float,
        *,
        column: Column | None = None,
        only_measured: bool = False,
    ) -> Problem:
        """The program to be solved at one resolution; ``budget`` in nanoseconds, infinite for none."""
        column = column or self.columns[0]
        problem = build_problem(
            column.network,
            self.worth,
            table,
            residual,
            budget,
            depth=self.depth,
            constant_value=self.worth.at_resolution(column.resolution, alone=len(self.columns) == 1),
            only_measured=only_measured,
        )
        return (column.shape or self.shape)(problem)

    def _solve_measured(
        self, table: LatencyTable, residual: Residual, budget: float
    ) -> tuple[Attempt, LatencyTable]:
        """Solve, measuring what the solution needs, until all of its kernels are in the table."""
        only_measured = False
        for number in range(MAX_REFINEMENTS + 1):
            only_measured |= number == MAX_REFINEMENTS
            column, problem, solution = self._solve(table, residual, budget, only_measured=only_measured)
            self.solve_seconds = max(self.solve_seconds, solution.seconds)
            left = column.network.without(solution.removed)
            missing = left.missing(solution.widths, table)
            if not missing:
                prediction = predict(left, solution.widths, table, residual)
                return Attempt(solution, prediction, problem, column.network, column.resolution), table
            self.refinements += 1
            table = self.profile(missing)
            # Where nothing can be measured (the device is away) there is no use in asking again.
            only_measured |= len(left.missing(solution.widths, table)) == len(missing)
        raise AssertionError("a solution over measured kernels only cannot miss a kernel")

    def _solve(
        self, table: LatencyTable, residual: Residual, budget: float, *, only_measured: bool
    ) -> tuple[Column, Problem, Solution]:
        """The best solution over all resolutions; of equals the first."""
        columns: dict[Side | None, Column] = {column.resolution: column for column in self.columns}
        problems: dict[Side | None, Problem] = {}
        failures: list[tuple[float, BudgetError]] = []
        for key, column in columns.items():
            try:
                problems[key] = self.problem(
                    table, residual, budget, column=column, only_measured=only_measured
                )
            except BudgetError as failure:
                failures.append((math.inf if key is None else math.prod(key), failure))
        together = isinstance(self.solve, ChoosesResolution)
        if failures and (together or not problems):
            # Of the smallest input, the least that can be reached is what can be reached at all.
            raise min(failures, key=lambda each: each[0])[1]
        if isinstance(self.solve, ChoosesResolution):
            best, solution = self.solve.best_of(problems)
        else:
            best, solution = best_of(problems, self.solve, name=_input_of)
        return columns[best], problems[best], solution

    def timed(self, programs: Mapping[str, Program], dense: Summary) -> dict[str, float]:
        """Latencies (ns) of networks, corrected by how far the dense one drifted from ``dense``."""
        times = self.time_networks({"dense": self.network.program_at(self.network.dense), **programs})
        pace = dense.median / times["dense"].median
        return {name: times[name].median * pace for name in programs}

    def _check(self, attempt: Attempt, dense: Summary) -> float:
        solution = attempt.solution
        pruned = attempt.network.program_at(solution.widths, solution.removed)
        measured = self.timed({"pruned": pruned}, dense)["pruned"]
        predicted = attempt.prediction.latency_ns
        logger.info("predicted %.3f ms, measured %.3f ms", predicted / 1e6, measured / 1e6)
        return measured

    def _kernels(self, attempt: Attempt, table: LatencyTable) -> KernelSum:
        solution = attempt.solution
        return attempt.network.without(solution.removed).predict(solution.widths, table)


def _input_of(resolution: Side | None) -> str:
    return "the input as it is" if resolution is None else "the input of {}x{}".format(*resolution)


def _round(attempt: Attempt, measured: float) -> Round:
    solution = attempt.solution
    predicted = attempt.prediction.latency_ns
    return Round(predicted, measured, dict(solution.widths), solution.removed, attempt.resolution)
