"""What a plan has to keep to, as a change of the problem that is solved for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import BudgetError
from hwprune.latency.fused import FusedGraph
from hwprune.planner.limits.amount import Amount
from hwprune.planner.limits.limits import Needs, Sizes
from hwprune.planner.limits.widths import Bound, allowed_widths, bounds_of, offered_widths, restricted
from hwprune.planner.options import PlanOptions
from hwprune.planner.removable import RemovableBlocks
from hwprune.planner.widths import GroupWidths
from hwprune.solve.problem import Choice, Concat, Problem
from hwprune.target import Target


@dataclass(frozen=True)
class Offer:
    """Widths on offer, the full size of every group among them, and those that are allowed."""

    widths: Mapping[str, GroupWidths]
    allowed: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])

    @staticmethod
    def of(
        captured: Captured,
        deps: Dependencies,
        targets: Sequence[Target],
        options: PlanOptions,
        *,
        minimum: float = 0.1,
        steps: int = 8,
    ) -> Offer:
        """Widths that suit all targets and the limits on layers.

        Raises
        ------
        UsageError
            A pattern matches nothing, or two contradict each other.
        PlanError
            A group is left without an aligned width.
        """
        bounds: Mapping[str, Bound] = bounds_of(deps, options.layer_ranges)
        widths = offered_widths(
            deps, captured.graph.graph, targets, minimum=minimum, steps=steps, bounds=bounds
        )
        return Offer(widths, allowed_widths(widths, deps, bounds))


class Counter:
    """Parameters and memory of a network, in the names of a problem's sums of widths."""

    def __init__(
        self, captured: Captured, deps: Dependencies, fused: FusedGraph, blocks: RemovableBlocks | None
    ) -> None:
        self._of = (captured, deps, fused)
        self._blocks = blocks
        self._known: dict[tuple[Concat, ...], Sizes] = {}

    def sizes(self, concats: tuple[Concat, ...] = ()) -> Sizes:
        """The same quantities with these sums as axes."""
        if concats not in self._known:
            self._known[concats] = Sizes.of(*self._of, blocks=self._blocks, concats=concats)
        return self._known[concats]


@dataclass(frozen=True)
class Goal:
    """Limits and objective of a plan. A goal is called with a problem and returns the one to solve.

    ``counter`` is needed where parameters or memory are limited; ``floor`` is a share (0..1) of the
    importance that the whole model has.
    """

    allowed: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    counter: Counter | None = None
    parameters: Amount | None = None
    memory: Amount | None = None
    floor: float | None = None

    @staticmethod
    def of(
        captured: Captured,
        deps: Dependencies,
        fused: FusedGraph,
        offer: Offer,
        options: PlanOptions,
        blocks: RemovableBlocks | None = None,
    ) -> Goal:
        """The goal that options ask for; ``blocks`` are those that may be removed."""
        return Goal(
            offer.allowed,
            Counter(captured, deps, fused, blocks),
            options.parameters_amount,
            options.memory_amount,
            options.floor_share,
        )

    def __call__(self, problem: Problem) -> Problem:
        """The problem with these limits and this objective.

        Raises
        ------
        BudgetError
            A limit or the floor is out of reach; the message says what can be reached.
        """
        whole = problem.value(problem.dense)
        if self.allowed:
            problem = restricted(problem, self.allowed)
        if self.counter is not None and (self.parameters or self.memory):
            problem = self.counter.sizes(problem.concats).limited(problem, self.parameters, self.memory)
        if self.floor is None:
            return problem
        most = problem.constant_value + math.fsum(max(d.values) for d in problem.domains)
        most += math.fsum(block.value for block in problem.blocks)
        # Sums in another order may differ in the last bits.
        least = self.floor * whole * (1 - 1e-12)
        if most < least:
            raise BudgetError(
                f"no choice keeps {self.floor:.1%} of the importance: the limits on layers leave "
                f"{most / whole:.1%} at most",
                hint="ask for less, or widen the limits",
            )
        return replace(problem, minimise=problem.limits[0].name, floor=least)

    @property
    def dense_needs(self) -> Needs | None:
        """Parameters and memory of the whole model."""
        if self.counter is None:
            return None
        sizes = self.counter.sizes()
        return sizes.needs(sizes.dense)

    def needs(self, choice: Choice) -> Needs | None:
        """Parameters and memory of a choice."""
        if self.counter is None:
            return None
        return self.counter.sizes().needs(choice.widths, choice.removed)
