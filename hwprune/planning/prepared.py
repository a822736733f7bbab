"""A model that is ready to be planned for, on every target that was named."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwprune.importance.allocation import Allocation
from hwprune.planner.carried import CarriedWorkbench
from hwprune.planner.curves.meter import Meter
from hwprune.planner.goal import Goal
from hwprune.planner.loop import Begun, LoopResult, PlanningLoop
from hwprune.planner.options import PlanOptions
from hwprune.planner.result import Asked, make_plan
from hwprune.planner.verdict import Verdict, judge
from hwprune.planner.workbench import Workbench
from hwprune.pruned import Subject
from hwprune.solve.plan import Plan
from hwprune.solve.plan_parts import FleetLine, LimitLine, Rechecked


@dataclass(frozen=True)
class Station:
    """A model on one of the targets: its kernels and table, and the loop that plans there."""

    bench: Workbench
    loop: PlanningLoop

    @property
    def name(self) -> str:
        """The target's name."""
        return self.bench.target.name

    @property
    def can_time(self) -> bool:
        """Whether networks can be timed there."""
        return not isinstance(self.bench, CarriedWorkbench)

    def verdict(self, begun: Begun) -> Verdict:
        """What pruning can do at most, from what was measured at first."""
        residual, target, model = begun.residual, self.bench.target, self.bench.model
        smallest = {group: widths[0] for group, widths in model.domains.items()}
        return judge(
            model,
            begun.table,
            target=target.name,
            dense_ns=begun.dense.median,
            outside_ns=residual.shift_ns + residual.launch_ns * len(model.families),
            least_ns=residual.latency_ns(model.predict(smallest, begun.table)),
            ledger=self.bench.deps.ledger,
            unit=target.unit,
        )


@dataclass(frozen=True)
class Prepared:
    """A model that can be planned for: captured and scored, with a station for every target.

    ``values`` are the scores by which units are kept; ``goal`` shapes the problem; ``meter`` measures
    losses on held-out data, where there is any; ``criteria`` are all that are
    tried, and ``others`` the same by those after the first. ``floors`` are those that the criterion
    itself gives, ``harm`` those by the loss on held-out data.
    """

    subject: Subject
    stations: tuple[Station, ...]
    goal: Goal
    options: PlanOptions
    values: dict[str, np.ndarray]
    checks: int
    asked: dict[str, Any]
    meter: Meter | None = None
    criteria: tuple[str, ...] = ()
    others: tuple[Prepared, ...] = ()
    floors: Allocation | None = None
    harm: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def criterion(self) -> str:
        """Name of the criterion that the scores are of."""
        return self.asked["criterion"]

    @contextmanager
    def at_work(self) -> Generator[None]:
        """Keep workers between the sweeps that are made inside.

        Only for one target: those of a whole fleet would lie in memory all at once.
        """
        with self.first.bench.workshop if len(self.stations) == 1 else nullcontext():
            yield

    @property
    def first(self) -> Station:
        """Of the first target, after which plans are named."""
        return self.stations[0]

    def plan_of(
        self,
        result: LoopResult,
        budget: str,
        *,
        fleet: tuple[FleetLine, ...] = (),
        verdict: Verdict | None = None,
        rechecked: Rechecked | None = None,
    ) -> Plan:
        """The plan file of a result."""
        floor, repair = self.options.floor, self.options.repair_asked
        asked = Asked(
            budget=budget,
            floor=None if floor is None else str(floor),
            depth=self.options.depth,
            judged_after=None if repair is None else repair.label,
            allowed=self.goal.allowed,
            least=self.goal.least,
            **self.asked,
        )
        text = None if verdict is None else verdict.text
        return make_plan(
            self.first.bench,
            result,
            self.values,
            asked,
            limits=self._limit_lines(result),
            fleet=fleet,
            verdict=text,
            rechecked=rechecked,
        )

    def _limit_lines(self, result: LoopResult) -> tuple[LimitLine, ...]:
        needs = self.goal.needs(result.solution.choice)
        dense = self.goal.dense_needs
        if needs is None or dense is None:
            return ()
        found: list[LimitLine] = []
        for name, amount, used, whole in (
            ("parameters", self.goal.parameters, needs.parameters, dense.parameters),
            ("memory", self.goal.memory, needs.bytes, dense.bytes),
        ):
            unit = "bytes" if name == "memory" else "parameters"
            at_most = None if amount is None else math.floor(amount.of(whole))
            found.append(LimitLine(name=name, unit=unit, used=used, at_most=at_most))
        return tuple(found)
