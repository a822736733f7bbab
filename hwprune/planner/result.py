"""From the loop's result to a plan file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hwprune.planner.loop import LoopResult
from hwprune.planner.workbench import Workbench
from hwprune.solve.domains import keep_best
from hwprune.solve.fingerprint import model_fingerprint
from hwprune.solve.plan import Plan
from hwprune.solve.plan_group import PlanGroup
from hwprune.solve.plan_parts import FleetLine, LedgerLine, LimitLine, Objective, Rechecked, RemovedBlock
from hwprune.solve.problem import Choice, Problem


@dataclass(frozen=True)
class Asked:
    """What a plan was asked for, as far as its file says it.

    ``allowed`` are widths of groups that the user narrowed, ``least`` floors against starvation; with
    ``depth`` blocks could be left out; ``judged_after`` is the repair behind the losses that it goes by.
    """

    criterion: str
    budget: str
    seed: int
    floor: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    submodule: str | None = None
    inside_heads: tuple[str, ...] = ()
    prune_outputs: bool = False
    depth: bool = False
    judged_after: str | None = None
    allowed: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    least: Mapping[str, int] = field(default_factory=dict[str, int])


def make_plan(
    bench: Workbench,
    result: LoopResult,
    scores: Mapping[str, np.ndarray],
    asked: Asked,
    *,
    limits: tuple[LimitLine, ...] = (),
    fleet: tuple[FleetLine, ...] = (),
    verdict: str | None = None,
    rechecked: Rechecked | None = None,
) -> Plan:
    """The plan that keeps the best-scored units of every group at the solution's widths."""
    solution, problem, prediction = result.solution, result.problem, result.prediction
    blocks = _removed(problem, result)
    # A solver's numbers may lie outside of their interval by rounding.
    low, high = min(prediction.low_ns, result.predicted_ns), max(prediction.high_ns, result.predicted_ns)
    minimised = problem.minimise is not None
    return Plan(
        model=type(bench.captured.model).__name__,
        fingerprint=model_fingerprint(bench.captured.model),
        inputs=tuple(tuple(x.shape) for x in bench.captured.example_inputs),
        resolution=result.resolution,
        submodule=asked.submodule,
        include=asked.include,
        exclude=asked.exclude,
        inside_heads=asked.inside_heads,
        prune_outputs=asked.prune_outputs,
        target=bench.target.name,
        pipeline=bench.pipeline,
        table=bench.directory.name,
        table_digest=result.table.manifest.sha256[:16],
        unit=bench.target.unit,
        provenance=bench.target.provenance,
        criterion=asked.criterion,
        objective=Objective(least=problem.minimise, floor=problem.floor, asked=asked.floor)
        if minimised
        else Objective(),
        budget_asked=asked.budget,
        budget_ns=result.budget_ns,
        dense_ns=result.dense.median,
        predicted_ns=result.predicted_ns,
        low_ns=low,
        high_ns=high,
        interpolated=min(1.0, max(0.0, prediction.interpolated)),
        residual_ns=result.predicted_ns - result.kernels_ns,
        value=solution.value,
        bound=-solution.bound if minimised else solution.bound,
        gap=solution.gap,
        solver=solution.solver,
        seed=asked.seed,
        solve_seconds=result.solve_seconds,
        rechecked=rechecked,
        judged_after=asked.judged_after,
        verdict=verdict,
        limits=limits,
        fleet=fleet,
        removed_blocks=blocks,
        groups=tuple(_group(bench, result, scores, asked, name) for name in bench.deps.dense_widths),
        ledger=(
            *(LedgerLine(name=r.name, channels=r.channels, reason=r.reason) for r in bench.deps.ledger),
            *(_blocks_that_stay(bench, problem) if asked.depth else ()),
        ),
    )


def _blocks_that_stay(bench: Workbench, problem: Problem) -> list[LedgerLine]:
    """Residual blocks that no plan could leave out, and why."""
    lines = [LedgerLine(name=f"block {r.name}", channels=0, reason=r.reason) for r in bench.blocks.declined]
    offered = {block.name for block in problem.blocks}
    for block in bench.removable:
        if block.name not in offered:
            reason = "no group of channels lies in it, and nothing says what it is worth: calibrate"
            lines.append(LedgerLine(name=f"block {block.name}", channels=0, reason=reason))
    return lines


def fleet_line(bench: Workbench, result: LoopResult, *, budget: bool, weight: float | None) -> FleetLine:
    """What a plan takes on a further target; without ``budget`` it has a weight."""
    return FleetLine(
        target=bench.target.name,
        pipeline=bench.pipeline,
        table=bench.directory.name,
        table_digest=result.table.manifest.sha256[:16],
        unit=bench.target.unit,
        provenance=bench.target.provenance,
        dense_ns=result.dense.median,
        predicted_ns=result.predicted_ns,
        budget_ns=result.budget_ns if budget else None,
        weight=weight,
    )


def _group(
    bench: Workbench, result: LoopResult, scores: Mapping[str, np.ndarray], asked: Asked, name: str
) -> PlanGroup:
    group, options, own = bench.deps.group(name), bench.widths[name], scores[name]
    home = result.problem.domain(name).block
    gone = home is not None and home in result.solution.removed
    width = 0 if gone else result.solution.widths[name]
    units = () if gone else keep_best(own, width)
    total = float(own.sum())
    return PlanGroup.from_units(
        name,
        group.size,
        units,
        channels_per_unit=group.channels_per_unit,
        multiple=options.multiple,
        exempt=options.exempt if width == group.size else None,
        importance_kept=float(own[list(units)].sum()) / total if total > 0 else float(not gone),
        block=home if gone else None,
        allowed=asked.allowed.get(name),
        floor=asked.least.get(name),
    )


def _removed(problem: Problem, result: LoopResult) -> tuple[RemovedBlock, ...]:
    """The blocks that are gone, with their shares of the dense network's latency and importance."""
    dense = problem.dense
    whole = problem.value(dense)
    found: list[RemovedBlock] = []
    for block in problem.blocks:
        if block.name not in result.solution.removed:
            continue
        without = Choice(dense.widths, frozenset({block.name}))
        saved = problem.usage(problem.limits[0], dense) - problem.usage(problem.limits[0], without)
        lost = whole - problem.value(without)
        found.append(
            RemovedBlock(
                name=block.name,
                latency_share=saved / result.dense.median,
                importance_share=lost / whole if whole else None,
            )
        )
    return tuple(found)
