"""Plans without a stopwatch: what is kept is chosen by the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from hwprune.dependency import Dependencies
from hwprune.solve.plan import Plan, PlanGroup, model_fingerprint


def plan_for(
    model: nn.Module,
    deps: Dependencies,
    keep: Mapping[str, Sequence[int]],
    *,
    submodule: str | None = None,
    budget_asked: str = "50%",
) -> Plan:
    """A plan that keeps these units, and all of the groups that are not named."""
    groups = tuple(
        PlanGroup.from_units(
            g.name,
            g.size,
            keep.get(g.name, range(g.size)),
            channels_per_unit=g.channels_per_unit,
            importance_kept=len(keep.get(g.name, range(g.size))) / g.size,
        )
        for g in deps.groups
    )
    return Plan(
        model=type(model).__name__,
        fingerprint=model_fingerprint(model),
        target="host",
        pipeline="p",
        table="t",
        table_digest="d",
        criterion="l2",
        solver="milp",
        seed=0,
        budget_ns=5.0,
        budget_asked=budget_asked,
        dense_ns=10.0,
        predicted_ns=4.0,
        residual_ns=1.0,
        value=1.0,
        bound=1.0,
        gap=0.0,
        solve_seconds=0.1,
        groups=groups,
        submodule=submodule,
    )
