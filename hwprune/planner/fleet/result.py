"""One plan on every target of a fleet, and whether it keeps their budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwprune.errors import BudgetError
from hwprune.planner.outcome import OVERRUN, LoopResult
from hwprune.solve.problem import Solution


@dataclass(frozen=True)
class FleetResult:
    """One solution with its results on every target, in the order of the members.

    ``budgets`` are those of the targets in nanoseconds, infinite where one has none. ``mean`` is the
    weighted mean of latencies relative to those of the dense network, and ``share`` what it may be; None
    without weights.
    """

    solution: Solution
    results: tuple[LoopResult, ...]
    budgets: tuple[float, ...]
    mean: float | None = None
    share: float | None = None

    @property
    def overrun(self) -> float:
        """How far the worst target (or the mean) is above its budget, as a share of it."""
        if self.mean is not None:
            return -1.0 if self.share is None else self.mean / self.share - 1.0
        return max(self.overruns)

    @property
    def overruns(self) -> tuple[float, ...]:
        """That of every target; -1 where it was not measured or has no budget."""
        return tuple(
            -1.0 if result.measured_ns is None else result.measured_ns / budget - 1.0
            for result, budget in zip(self.results, self.budgets, strict=True)
        )


def reject_fleet_overrun(result: FleetResult, names: Sequence[str]) -> None:
    """Raise when the plan misses a budget on a device.

    Raises
    ------
    BudgetError
        Naming the target.
    """
    if result.mean is not None:
        if result.overrun > OVERRUN:
            raise BudgetError(
                f"the best plan takes {result.mean:.1%} of the dense latency in the weighted mean, "
                f"above its budget of {result.share:.1%}",
                hint="quieten the machine and profile again, or allow a larger budget",
            )
        return
    for name, each, overrun in zip(names, result.results, result.overruns, strict=True):
        if overrun > OVERRUN:
            raise BudgetError(
                f"the best plan takes {(each.measured_ns or 0) / 1e6:.3f} ms on {name}, above its budget of "
                f"{each.budget_ns / 1e6:.3f} ms",
                hint="quieten the machine and profile again, or allow a larger budget on that target",
            )
