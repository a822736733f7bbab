"""What is asked of a plan beside its latency."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwprune.errors import UsageError
from hwprune.planner.limits.amount import Amount, parse_range
from hwprune.planner.limits.lazy import solve_lazily
from hwprune.repair.options import RepairOptions, read_repair
from hwprune.solve.problem import Problem, Solution
from hwprune.solve.solvers import check_solver, solve

if TYPE_CHECKING:
    from hwprune.planner.joint.options import JointOptions

#: Examples that layers of every cut are fitted to where only the repair of the finished model is asked for:
#: with 128 instead of 512 about as good plans were found in half the time.
JUDGED_EXAMPLES = 128
#: The solver that needs the model and its data.
JOINT = "joint"


@dataclass(frozen=True)
class PlanOptions:
    """What is asked of a plan beside its latency; what cannot be read is refused here.

    Attributes
    ----------
    floor
        Share of the importance to keep (``"95%"``, 0.95): the plan is then the one of least latency that
        keeps it, within the latency budget if one is given.
    parameters, memory
        Most parameters (``"5M"``, ``"50%"`` of the dense model's) and most bytes of weights and
        activations at once (``"8MB"``, ``"50%"``).
    layers
        Pattern over layers (``"layer1.*"``) to the shares of channels that they may keep:
        ``(0.5, 1.0)`` or ``"50%..100%"``.
    weights
        For a plan for several targets: what each counts in the mean of their relative latencies, by the
        target's name. The latency budget is then one on that mean.
    depth
        Residual blocks may be removed, too.
    resolutions
        Input resolutions to choose from: ``(224, 192, 160)``, the shorter side, or (height, width). A
        single one is taken as it is; several need ``held_out``, since nothing else says what each costs.
    held_out
        Labelled batches that were not trained on. What widths, blocks and resolutions are worth is then
        measured by the loss on them, and the finished plan is compared with uniform widths by it.
    repair
        What every cut is repaired by before its loss on ``held_out`` is taken: None measures BatchNorm
        statistics again; ``"least_squares"``, ``"scales"`` (also as ``"least_squares:examples=128"``) or
        options fit layers to the plan's ``data`` as :meth:`hwprune.Pruned.repair` does. Give what the
        finished model will be repaired by; :func:`hwprune.prune` with a ``repair`` does so by itself.
    most_harm
        Most that a group, cut alone and repaired, may add to the loss on ``held_out``: narrower widths of
        it are not on offer, however much they save. A floor against starvation for every group.
    solver
        ``"milp"``, ``"cpsat"`` (needs hwprune[cpsat]), or for comparison ``"greedy"``, ``"knapsack"``,
        ``"uniform"``; ``"joint"`` searches on a weight-sharing network, which it trains on ``data`` and
        judges on ``held_out``.
    joint, checkpoint
        Length and steps of the joint solver's search; and a file in which its state, or the losses on
        ``held_out``, are kept as they come: what was interrupted goes on from there.
    time_limit_s, gap
        Seconds for each solution, and the relative gap at which it is good enough.

    Raises
    ------
    UsageError
        A share or a range cannot be read.
    BudgetError
        An amount cannot be read.
    PlanError
        There is no such solver.
    """

    floor: str | float | None = None
    parameters: str | float | None = None
    memory: str | float | None = None
    layers: Mapping[str, tuple[float, float] | str] = field(
        default_factory=dict[str, "tuple[float, float] | str"]
    )

    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    depth: bool = False
    resolutions: Sequence[int | tuple[int, int]] = ()
    held_out: Iterable[Any] | None = None
    repair: RepairOptions | str | None = None
    most_harm: float | None = None
    solver: str = "milp"
    joint: JointOptions | None = None
    checkpoint: Path | None = None
    time_limit_s: float = 30.0
    gap: float = 1e-4

    def __post_init__(self) -> None:
        _ = self.floor_share, self.parameters_amount, self.memory_amount, self.layer_ranges
        if self.repair_asked is not None and (self.held_out is None or self.solver == JOINT):
            raise UsageError(
                f"a repair ({self.repair_asked.label}) of cuts whose loss nobody measures",
                hint="give held_out and a solver other than joint, or leave the repair out here and repair"
                " the finished model",
            )
        if self.solver != JOINT:
            check_solver(self.solver)
        elif self.held_out is None or self.floor is not None:
            raise UsageError(
                "the joint solver needs held-out data, and takes no floor of importance",
                hint="give held_out, and leave the floor out",
            )
        if self.joint is not None and self.solver != JOINT:
            raise UsageError(
                f"options of a joint search beside the solver {self.solver!r}",
                hint='add solver="joint", or leave them out',
            )
        if len(self.resolutions) > 1 and self.held_out is None:
            raise UsageError(
                "resolutions are to be chosen from, but nothing says what each of them costs",
                hint="give held-out data, too",
            )
        if self.most_harm is not None:
            self._check_floors(self.most_harm)
        if self.checkpoint is not None and self.held_out is None:
            raise UsageError(
                "a checkpoint of nothing: without held-out data no losses are measured",
                hint="give held_out, or leave checkpoint out",
            )
        for name, value in (("time_limit_s", self.time_limit_s), ("gap", self.gap)):
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} is {value}", hint="give a number above zero")

    def _check_floors(self, most: float) -> None:
        if not (math.isfinite(most) and most > 0):
            raise UsageError(
                f"most_harm is {most}", hint="give a change of the held-out loss above 0, such as 0.5"
            )
        if self.held_out is None or self.solver == JOINT:
            raise UsageError(
                "most_harm is read off losses that nobody measures here",
                hint="give held_out and a solver other than joint, or leave most_harm out",
            )

    def solve(self, problem: Problem) -> Solution:
        """Solve by the solver that was asked for."""
        return solve_lazily(
            problem,
            lambda part: solve(part, solver=self.solver, time_limit_s=self.time_limit_s, gap=self.gap),
        )

    @property
    def repair_asked(self) -> RepairOptions | None:
        """:attr:`repair` as options."""
        return read_repair(self.repair) if isinstance(self.repair, str) else self.repair

    def judging_after(self, repair: RepairOptions) -> PlanOptions:
        """The same, with cuts judged after this repair if they are judged and nothing else is asked for."""
        if self.held_out is None or self.solver == JOINT or self.repair is not None:
            return self
        few = min(repair.examples, JUDGED_EXAMPLES)
        return replace(self, repair=repair.model_copy(update={"examples": few}))

    @property
    def floor_share(self) -> float | None:
        """:attr:`floor` as a number."""
        return None if self.floor is None else _share(self.floor)

    @property
    def parameters_amount(self) -> Amount | None:
        """:attr:`parameters` as it is to be understood."""
        if self.parameters is None:
            return None
        return Amount.parse(self.parameters, "parameters", "parameters")

    @property
    def memory_amount(self) -> Amount | None:
        """:attr:`memory` as it is to be understood."""
        return None if self.memory is None else Amount.parse(self.memory, "bytes", "memory")

    @property
    def layer_ranges(self) -> dict[str, tuple[float, float]]:
        """:attr:`layers` as numbers."""
        return {
            pattern: parse_range(given) if isinstance(given, str) else given
            for pattern, given in self.layers.items()
        }


def _share(given: str | float) -> float:
    text = str(given).strip()
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        share = math.nan
    if isinstance(given, bool) or not 0.0 < share <= 1.0:
        raise UsageError(
            f"'{given}' is not a share of the importance to keep", hint='write it as "95%" or 0.95'
        )
    return share
