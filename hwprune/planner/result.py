"""From the loop's result to a plan file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwprune.planner.loop import LoopResult
from hwprune.planner.workbench import Workbench
from hwprune.solve.domains import keep_best
from hwprune.solve.plan import LedgerLine, Plan, PlanGroup, model_fingerprint


def make_plan(
    bench: Workbench,
    result: LoopResult,
    scores: Mapping[str, np.ndarray],
    *,
    criterion: str,
    budget_asked: str,
    seed: int,
) -> Plan:
    """The plan that keeps the best-scored units of every group at the solution's widths."""
    groups: list[PlanGroup] = []
    for group in bench.deps.groups:
        width = result.solution.widths[group.name]
        options = bench.widths[group.name]
        units = keep_best(scores[group.name], width)
        total = float(scores[group.name].sum())
        groups.append(
            PlanGroup.from_units(
                group.name,
                group.size,
                units,
                channels_per_unit=group.channels_per_unit,
                multiple=options.multiple,
                exempt=options.exempt if width == group.size else None,
                importance_kept=float(scores[group.name][list(units)].sum()) / total if total > 0 else 1.0,
            )
        )
    manifest = result.table.manifest
    return Plan(
        model=type(bench.captured.model).__name__,
        fingerprint=model_fingerprint(bench.captured.model),
        target=bench.target.name,
        pipeline=bench.pipeline,
        table=bench.directory.name,
        table_digest=manifest.sha256[:16],
        criterion=criterion,
        solver=result.solution.solver,
        seed=seed,
        budget_ns=result.budget_ns,
        budget_asked=budget_asked,
        dense_ns=result.dense.median,
        predicted_ns=result.predicted_ns,
        residual_ns=result.predicted_ns - result.kernels_ns,
        value=result.solution.value,
        bound=result.solution.bound,
        gap=result.solution.gap,
        solve_seconds=result.solve_seconds,
        unit=bench.target.unit,
        provenance=bench.target.provenance,
        groups=tuple(groups),
        ledger=tuple(
            LedgerLine(name=r.name, channels=r.channels, reason=r.reason) for r in bench.deps.ledger
        ),
    )
