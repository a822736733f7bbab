"""What a model's channels, widths, blocks and resolutions are worth by one criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hwprune.errors import UsageError
from hwprune.importance import Criterion, score, to_objective
from hwprune.importance import get as get_criterion
from hwprune.importance.allocation import Allocation
from hwprune.importance.registry import Loss
from hwprune.planner.curves.calibrate import calibrate
from hwprune.planner.curves.floor import floors
from hwprune.planner.joint import JointOptions, joint_solver
from hwprune.planner.loop import ChoosesResolution
from hwprune.planner.network import Column
from hwprune.planner.options import JOINT, PlanOptions
from hwprune.planner.workbench import Workbench
from hwprune.planner.worth import Side, Worth
from hwprune.repair.cut_repair import CutRepair
from hwprune.solve.problem import Problem, Solution

#: Criteria as they are asked for: names, several joined by commas, or with parameters.
Judges = str | Criterion | Sequence[str | Criterion] | None


@dataclass(frozen=True)
class Valued:
    """A model judged by one criterion.

    Attributes
    ----------
    criterion
        Its name.
    values
        Per group one comparable score per unit, by which units are kept.
    worth
        What widths, blocks and resolutions are worth.
    least
        Widths against starvation, where they were asked for; those of ``floors`` are not among them.
    floors
        What the criterion itself says of widths, where it was asked to.
    solve
        The solver; a joint search keeps its own state.
    """

    criterion: str
    values: dict[str, np.ndarray]
    worth: Worth
    solve: Callable[[Problem], Solution] | ChoosesResolution
    least: Mapping[str, int] = field(default_factory=dict[str, int])
    floors: Allocation | None = None

    @property
    def all_floors(self) -> dict[str, int]:
        """The greatest floor of every group, with the strictest of the criterion."""
        own = {} if self.floors is None else self.floors.floors[0].widths
        return {name: max(self.least.get(name, 0), own.get(name, 0)) for name in {**self.least, **own}}


@dataclass(frozen=True)
class Valuer:
    """Judges a model by criteria.

    ``columns`` are the resolutions on offer, ``data`` is what criteria (and the joint search) go by,
    ``held_out`` what losses are measured on, as far as there is any, after ``repair``.
    """

    bench: Workbench
    columns: Sequence[Column]
    options: PlanOptions
    data: Iterable[Any] | None
    held_out: Sequence[Any] | None
    loss: Loss | None
    seed: int
    repair: CutRepair | None = None

    def by(self, judge: Criterion) -> Valued:
        """Score the channels, and measure what the widths are worth where there is held-out data.

        Raises
        ------
        CriterionError
            The scores cannot be computed, or the held-out data is of no use.
        """
        bench, options, criterion = self.bench, self.options, judge.label
        bench.progress(f"score channels by {criterion}", 0, 1)
        found = score(bench.captured, bench.deps, criterion=judge, data=self.data, loss=self.loss)
        values = to_objective(found, judge.comparability)
        if options.solver == JOINT:
            return self._searched(criterion, values)
        if self.held_out is None:
            told = values if judge.allocation is None else _shares(judge.allocation.strengths)
            worth = Worth.of_scores(told, bench.model.domains)
            return Valued(criterion, values, worth, options.solve, floors=judge.allocation)
        curves = calibrate(
            bench.captured,
            bench.deps,
            bench.model.domains,
            self.held_out,
            self.loss,
            scores=values,
            blocks=bench.blocks.blocks if options.depth else (),
            resolutions=self._sides,
            repair=self.repair,
            memory=options.checkpoint,
            progress=bench.progress,
        )
        least: dict[str, int] = {}
        if options.most_harm is not None:
            least = floors(curves.curves, bench.model.domains, options.most_harm)
        return Valued(criterion, values, curves.worth, options.solve, least, judge.allocation)

    @property
    def _sides(self) -> list[Side]:
        return [column.resolution for column in self.columns if column.resolution is not None]

    def _searched(self, criterion: str, values: dict[str, np.ndarray]) -> Valued:
        options = self.options
        networks: dict[Side | None, Workbench] = {}
        for column in self.columns or (Column(self.bench),):
            assert isinstance(column.network, Workbench)
            networks[column.resolution] = column.network
        solve = joint_solver(
            networks,
            values,
            data=self.data,
            held_out=options.held_out,
            depth=options.depth,
            loss=self.loss,
            options=options.joint or JointOptions(seed=self.seed),
            checkpoint=options.checkpoint,
        )
        # What a smaller input costs is seen by the search itself, on the shared weights.
        worth = Worth.of_scores(values, self.bench.model.domains)
        return Valued(criterion, values, replace(worth, resolutions=dict.fromkeys(self._sides, 0.0)), solve)


def _shares(strengths: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of sum 1 over all groups: solvers want numbers of a usual size."""
    total = sum(float(each.sum()) for each in strengths.values())
    return {name: each / total if total > 0 else each for name, each in strengths.items()}


def criteria_of(criterion: Judges, options: PlanOptions, *, data: bool) -> list[Criterion]:
    """The criteria that are asked for, or the one that suits; several names may be joined by commas.

    Raises
    ------
    UsageError
        There is no such criterion, nothing decides between several, or the solver takes no floors of one.
    """
    if criterion is None:
        return [get_criterion("taylor2019" if data else "lamp")]
    given = criterion.split(",") if isinstance(criterion, str) else criterion
    given = [given] if isinstance(given, Criterion) else given
    made = [each if isinstance(each, Criterion) else get_criterion(each.strip()) for each in given]
    first: dict[str, Criterion] = {}
    for each in made:
        first.setdefault(each.label, each)
    judges = list(first.values())
    if options.solver == JOINT and any(each.gives_widths for each in judges):
        raise UsageError(
            "the joint solver finds widths by the loss alone, and the criterion is to give floors of its own",
            hint="leave the floors out, or use the milp solver",
        )
    if not judges:
        raise UsageError("no criterion is named", hint="leave criterion out for the one that suits")
    if len(judges) == 1:
        return judges
    both = " and ".join(each.label for each in judges)
    if options.held_out is None:
        raise UsageError(
            f"nothing says which of the plans by {both} is better",
            hint="give held-out data (held_out, --calibrate), or one criterion",
        )
    if options.solver == JOINT or options.resolutions:
        raise UsageError(
            f"plans by {both} can be compared at the model's own resolution, and not after a joint search",
            hint="name one criterion, or leave resolutions and the joint solver out",
        )
    return judges
