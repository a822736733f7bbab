"""What a plan has to keep to, as a change of the problem that is solved for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import BudgetError, PlanError
from hwprune.latency.fused import FusedGraph
from hwprune.planner.limits.amount import Amount
from hwprune.planner.limits.limits import Needs, Sizes
from hwprune.planner.limits.widths import Bound, allowed_widths, bounds_of, offered_widths
from hwprune.planner.options import PlanOptions
from hwprune.planner.removable import RemovableBlocks
from hwprune.planner.widths import GroupWidths
from hwprune.solve.narrow import restricted
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
    importance that the whole model has; ``least`` are widths of groups against starvation, by the harm that
    was allowed or by the criterion ``floors_of``.
    """

    allowed: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    counter: Counter | None = None
    parameters: Amount | None = None
    memory: Amount | None = None
    floor: float | None = None
    least: Mapping[str, int] = field(default_factory=dict[str, int])
    floors_of: str = ""

    @staticmethod
    def of(
        captured: Captured,
        deps: Dependencies,
        fused: FusedGraph,
        offer: Offer,
        options: PlanOptions,
        blocks: RemovableBlocks | None = None,
        least: Mapping[str, int] | None = None,
    ) -> Goal:
        """The goal that options ask for.

        ``blocks`` are those that may be removed, ``least`` the widths against starvation
        (:func:`hwprune.planner.curves.floor.floors`).
        """
        return Goal(
            offer.allowed,
            Counter(captured, deps, fused, blocks),
            options.parameters_amount,
            options.memory_amount,
            options.floor_share,
            least or {},
        )

    def __call__(self, problem: Problem) -> Problem:
        """The problem with these limits and this objective.

        Raises
        ------
        BudgetError
            A limit or the floor is out of reach; the message says what can be reached.
        PlanError
            The limits on layers leave a group nothing above its floor.
        """
        whole = problem.value(problem.dense)
        allowed = self._widths(problem)
        if allowed:
            problem = restricted(problem, allowed)
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

    def _widths(self, problem: Problem) -> dict[str, Sequence[int]]:
        """Widths that both the user and the floors allow, for the groups that either narrows."""
        found = dict(self.allowed)
        for group, least in self.least.items():
            before = found.get(group, problem.domain(group).widths)
            found[group] = tuple(width for width in before if width >= least)
            if not found[group]:
                if self.floors_of:
                    raise PlanError(
                        f"group {group!r} may have at most {max(before)} units by the limits on layers, "
                        f"but at least {least} by the floors of {self.floors_of}",
                        hint="widen the limit on its layers, or ask the criterion for lower floors",
                    )
                raise PlanError(
                    f"group {group!r} may have at most {max(before)} units by the limits on layers, "
                    f"but below {least} it does more harm than was allowed",
                    hint="widen the limit on its layers, or allow more harm (most_harm, --most-harm)",
                )
        return found

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
