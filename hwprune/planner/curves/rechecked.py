"""A finished plan is compared with its rivals by its measured loss, and the best of them is taken.

Importance is a stand-in for the loss, however it was made. So the solution of the loop, the uniform
one and the greedy one within the same limits are carried out and repaired, and their loss on held-out
data decides.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwprune.dependency.blocks import Block
from hwprune.errors import BudgetError
from hwprune.planner.curves.meter import Meter
from hwprune.planner.curves.recheck import Recheck, choose_by_loss, loss_of_choices
from hwprune.planner.loop import PlanningLoop
from hwprune.planner.outcome import TOLERANCE, LoopResult
from hwprune.planner.prediction import predict
from hwprune.planner.workbench import Progress, silent
from hwprune.solve.greedy import solve_greedy
from hwprune.solve.plan_parts import Rechecked
from hwprune.solve.problem import Problem, Solution
from hwprune.solve.uniform import solve_uniform

_log = logging.getLogger(__name__)

RIVALS: Mapping[str, Callable[[Problem], Solution]] = {"uniform": solve_uniform, "greedy": solve_greedy}


@dataclass(frozen=True)
class Judged:
    """The plan that was taken, and the losses that decided."""

    result: LoopResult
    recheck: Recheck
    examples: int

    @property
    def loss(self) -> float:
        """Held-out loss of the plan that was taken."""
        return self.recheck.losses[self.recheck.name]

    @property
    def line(self) -> Rechecked:
        """For the plan file; a loss of a rival that is not finite is left out."""
        losses, dense = self.recheck.losses, self.recheck.dense_loss
        uniform = losses.get("uniform")
        return Rechecked(
            loss=self.loss,
            dense=0.0 if dense is None else dense,
            uniform=uniform if uniform is not None and math.isfinite(uniform) else None,
            examples=self.examples,
        )


def judge_by_loss(
    loop: PlanningLoop,
    result: LoopResult,
    meter: Meter,
    scores: Mapping[str, np.ndarray],
    *,
    blocks: Sequence[Block] = (),
    checks: int = 0,
    rivals: Mapping[str, Callable[[Problem], Solution]] = RIVALS,
    progress: Progress = silent,
) -> Judged:
    """Take the plan of the least held-out loss among the loop's and its rivals.

    A rival that takes its place is measured like any plan: its kernels, and with ``checks`` the whole
    network. One that then misses the budget is given up.

    Parameters
    ----------
    loop, result
        The loop and what it found, at the network's own input resolution.
    meter
        The model and its held-out data.
    scores
        Per group one score per unit, by which units are kept.
    blocks
        Those that plans may leave out.
    rivals
        Other ways to solve the same problem, by name.

    Raises
    ------
    PlanError
        No candidate has a finite loss, or one is NaN.
    """
    found = {result.solution.solver: result.solution}
    for name, solve in rivals.items():
        try:
            found.setdefault(name, solve(result.problem))
        except BudgetError as error:
            _log.debug("no %s plan to compare with: %s", name, error.message)
    evaluate = loss_of_choices(meter, scores, blocks=blocks)
    while True:
        choices = {name: solution.choice for name, solution in found.items()}
        recheck = choose_by_loss(choices, evaluate, dense_loss=meter.dense, progress=progress)
        _log.info("%s", recheck.summary())
        if not recheck.replaced:
            return Judged(result, recheck, meter.examples)
        other = _measured(loop, result, found[recheck.name], checks=checks)
        if other is not None:
            _log.warning("%s", recheck.summary())
            return Judged(other, recheck, meter.examples)
        del found[recheck.name]


def _measured(loop: PlanningLoop, result: LoopResult, rival: Solution, *, checks: int) -> LoopResult | None:
    """The rival as a result of the loop; None if it misses the budget."""
    table, limit = result.table, result.problem.limits[0]
    left = loop.network.without(rival.removed)
    missing = left.missing(rival.widths, table)
    if missing:
        table = loop.profile(missing)
    prediction = predict(left, rival.widths, table, result.residual)
    measured = None
    if checks:
        program = loop.network.program_at(rival.widths, rival.removed)
        measured = loop.timed({"pruned": program}, result.dense)["pruned"]
    latency = prediction.latency_ns if measured is None else measured
    if latency > limit.at_most * (1 + TOLERANCE):
        return None
    usage = {**rival.usage, limit.name: prediction.latency_ns}
    # What was proven about the exact solution holds for its rival: the bound is on the same problem.
    bound = max(result.solution.bound, rival.objective)
    gap = (bound - rival.objective) / max(abs(bound), 1e-12)
    return replace(
        result,
        solution=replace(rival, usage=usage, bound=bound, gap=gap),
        prediction=prediction,
        measured_ns=measured,
        table=table,
    )
