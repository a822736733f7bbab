"""Plans without a stopwatch: what is kept is chosen by the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from hwprune.dependency import ChannelGroup, Dependencies
from hwprune.dependency.blocks import Block
from hwprune.solve.fingerprint import model_fingerprint
from hwprune.solve.plan import Plan
from hwprune.solve.plan_group import PlanGroup
from hwprune.solve.plan_parts import RemovedBlock


def plan_for(
    model: nn.Module,
    deps: Dependencies,
    keep: Mapping[str, Sequence[int]],
    *,
    submodule: str | None = None,
    budget_asked: str = "50%",
    blocks: Sequence[Block] = (),
) -> Plan:
    """A plan that keeps these units, all of the groups that are not named, and none of these blocks."""
    going = {group: block.name for block in blocks for group in block.groups}

    def units(group: ChannelGroup) -> Sequence[int]:
        return () if group.name in going else keep.get(group.name, range(group.size))

    groups = tuple(
        PlanGroup.from_units(
            g.name,
            g.size,
            units(g),
            channels_per_unit=g.channels_per_unit,
            importance_kept=len(units(g)) / g.size,
            block=going.get(g.name),
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
        removed_blocks=tuple(RemovedBlock(name=block.name) for block in blocks),
        groups=groups,
        submodule=submodule,
    )
