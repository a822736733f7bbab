"""From a plan and what was measured on the way to the rows of the report."""

from __future__ import annotations

from collections.abc import Mapping

from hwprune.latency.kernel import KernelFamily, KernelSpec
from hwprune.latency.prices import Prices
from hwprune.latency.rows import Row
from hwprune.latency.table import LatencyTable
from hwprune.measure.compare import Comparison, Standing
from hwprune.planner.loop import LoopResult
from hwprune.planner.workbench import Workbench
from hwprune.report.rows import (
    Contender,
    GroupRow,
    KernelRow,
    LedgerRow,
    Measurement,
    SolverInfo,
    Staircase,
    TargetInfo,
)
from hwprune.solve.plan import Plan

#: Most widths of a staircase; more would not be told apart in the drawing.
STAIR_WIDTHS = 32


def target_info(bench: Workbench) -> TargetInfo:
    """The device as the target file describes it."""
    target = bench.target
    return TargetInfo(
        name=target.name, description=target.description, isa=target.isa, threads=target.threads
    )


def group_rows(plan: Plan) -> tuple[GroupRow, ...]:
    """Before and after of every group, in channels."""
    return tuple(
        GroupRow(
            name=g.name,
            dense=g.size * g.channels_per_unit,
            kept=g.width * g.channels_per_unit,
            multiple=g.multiple,
            exempt=g.exempt if g.block is None else f"goes with block {g.block}",
            importance_kept=min(1.0, max(0.0, g.importance_kept)),
        )
        for g in plan.groups
    )


def ledger_rows(plan: Plan) -> tuple[LedgerRow, ...]:
    """What stays, and why."""
    return tuple(LedgerRow(name=r.name, channels=r.channels, reason=r.reason) for r in plan.ledger)


def solver_info(plan: Plan) -> SolverInfo:
    """How the widths were chosen."""
    return SolverInfo(name=plan.solver, gap=max(0.0, plan.gap), bound=plan.bound, seconds=plan.solve_seconds)


def kernel_rows(bench: Workbench, result: LoopResult) -> tuple[KernelRow, ...]:
    """Every kernel of the network, dense and pruned, from the table."""
    dense_widths, gone = bench.deps.dense_widths, _gone(bench, result)
    prices = Prices(result.table, untrusted=True)
    found: list[tuple[str, KernelSpec, float, float]] = []
    for family, shape in zip(bench.model.families, bench.model.shapes, strict=True):
        dense = family.at(dense_widths)
        after = 0.0
        if family.name not in gone:
            after = prices.of(family.at(result.solution.widths), shape).ns
        found.append((family.name, dense, prices.of(dense, shape).ns, after))
    total = sum(row[2] for row in found)
    return tuple(
        KernelRow(
            name=name, label=spec.label(), dense_us=before / 1e3, pruned_us=after / 1e3, share=before / total
        )
        for name, spec, before, after in found
    )


def _gone(bench: Workbench, result: LoopResult) -> frozenset[str]:
    """Names of kernel families that went with their blocks."""
    removed = result.solution.removed
    blocks = bench.removable if removed else ()
    return frozenset(name for block in blocks if block.name in removed for name in block.families)


def staircase_specs(bench: Workbench, result: LoopResult) -> tuple[str, str, dict[int, KernelSpec]] | None:
    """The layer that costs most, over the width of the group it produces, in steps below the block.

    Returns the family's name, the group's name and the kernel for each width (units), or None for
    a network in which no kernel depends on a group.
    """
    gone, prices = _gone(bench, result), Prices(result.table, untrusted=True)
    costs = [
        (prices.of(family.at(bench.deps.dense_widths), shape).ns, family)
        for family, shape in zip(bench.model.families, bench.model.shapes, strict=True)
        if family.groups and family.name not in gone
    ]
    if not costs:
        return None

    # A layer whose width was changed shows more than one that was left alone.
    def interest(item: tuple[float, KernelFamily]) -> tuple[bool, float]:
        name = _produced_group(item[1])
        return result.solution.widths[name] < bench.deps.group(name).size, item[0]

    family = max(costs, key=interest)[1]
    group = bench.deps.group(_produced_group(family))
    step = max(1, group.size // STAIR_WIDTHS)
    widths = sorted({*range(step, group.size + 1, step), result.solution.widths[group.name], group.size})
    dense = bench.deps.dense_widths
    return family.name, group.name, {w: family.at({**dense, group.name: w}) for w in widths}


def _produced_group(family: KernelFamily) -> str:
    """The group of the channels that a kernel makes, where it makes any; else what it reads."""
    weights = [i for i in family.inputs if i.role == "weight" and i.shape[0].groups]
    return weights[0].shape[0].groups[0] if weights else family.groups[-1]


def staircase(
    bench: Workbench,
    result: LoopResult,
    name: str,
    group: str,
    specs: Mapping[int, KernelSpec],
    table: LatencyTable,
) -> Staircase:
    """The measured staircase of :func:`staircase_specs`; ``table`` must hold its kernels."""
    channels = bench.deps.group(group).channels_per_unit
    rows = {width * channels: _row(table, spec) for width, spec in sorted(specs.items())}
    return Staircase(
        label=name,
        group=group,
        widths=tuple(rows),
        latency_us=tuple(r.median / 1e3 for r in rows.values()),
        low=tuple(min(r.ci_low, r.median) / 1e3 for r in rows.values()),
        high=tuple(max(r.ci_high, r.median) / 1e3 for r in rows.values()),
        chosen=result.solution.widths[group] * channels,
        dense=bench.deps.group(group).size * channels,
    )


def measurement(standing: Standing) -> Measurement:
    """Median of a comparison with its interval, in milliseconds."""
    s = standing.summary
    return Measurement(
        value_ms=s.median / 1e6, low_ms=s.ci_low / 1e6, high_ms=s.ci_high / 1e6, kind="measured"
    )


def contenders(comparison: Comparison, reference: str) -> tuple[Contender, ...]:
    """Everyone's median, and its ratio to the reference's (the pruned module's)."""
    base = comparison[reference].summary.median
    return tuple(
        Contender(
            name=s.name,
            median_ms=s.summary.median / 1e6,
            low_ms=s.summary.ci_low / 1e6,
            high_ms=s.summary.ci_high / 1e6,
            ratio=s.summary.median / base,
        )
        for s in comparison.standings
    )


def provenance(bench: Workbench, result: LoopResult, plan: Plan) -> dict[str, str]:
    """Where the numbers come from, in the order in which the page shows it."""
    manifest = result.table.manifest
    sweep = manifest.latest
    return {
        "device": str(manifest.device.get("cpu", bench.target.name)),
        "cores": str(manifest.device.get("cores", "")),
        "system": manifest.system,
        "target": f"{bench.target.name}: {bench.target.tvm or bench.target.backend}",
        "compile pipeline": f"{bench.target.pipeline} {bench.pipeline}",
        "versions": ", ".join(f"{k} {v}" for k, v in sweep.versions.items() if v),
        "latency table": f"{plan.table} ({len(result.table)} kernels, digest {plan.table_digest})",
        "measurement profile": bench.profile.name,
        "criterion": plan.criterion,
        "seed": str(plan.seed),
        "command": sweep.command,
        "git": sweep.git or "not a checkout",
    }


def plan_warnings(bench: Workbench, result: LoopResult) -> tuple[str, ...]:
    """What a reader must know before trusting the numbers."""
    found: list[str] = []
    left = bench.without(result.solution.removed)
    disturbed = left.disturbed(result.solution.widths, result.table)
    if disturbed:
        found.append(
            f"{disturbed} of {len(left.families)} kernels of the plan were timed while other "
            "programs used the machine; measure again with --profile table on a quiet one"
        )
    return tuple(found)


def _row(table: LatencyTable, spec: KernelSpec) -> Row:
    return table.lookup(spec, untrusted=True)
