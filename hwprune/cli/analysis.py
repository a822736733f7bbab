"""Verbs that only look: targets, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwprune.cli.common import (
    INPUT_HELP,
    MODEL_HELP,
    Exclude,
    Include,
    InsideHeads,
    Json,
    PruneOutputs,
    Submodule,
    Tables,
    TargetName,
    Threads,
    TrustPickle,
    Weights,
    emit,
    print_table,
    say,
)
from hwprune.cli.criteria import show_criteria
from hwprune.cli.frontiers import show_verdict, verdict_data
from hwprune.target import Target, available, load_target

if TYPE_CHECKING:
    from hwprune.capture.captured import Captured
    from hwprune.dependency.groups import Dependencies
    from hwprune.planner.verdict import Verdict


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command()(targets)
    app.command()(inspect)


def targets(
    name: Annotated[str | None, typer.Argument(help="Show this target with all its keys.")] = None,
    json: Json = False,
) -> None:
    """List the targets, or show one as it resolves on this machine."""
    if name is not None:
        target = load_target(name)
        rows = list(target.model_dump().items())
        emit(target.model_dump(), json, lambda: print_table(name, ("key", "value"), rows))
        return
    found = [load_target(each) for each in available()]
    header = ("name", "kind", "isa", "threads", "alignment", "pipeline", "description")

    def row(t: Target) -> tuple[Any, ...]:
        return (t.name, t.kind, t.isa, t.threads, t.multiple("conv2d"), t.pipeline, t.description)

    emit(
        {"targets": [t.model_dump() for t in found]},
        json,
        lambda: print_table("targets", header, [row(t) for t in found]),
    )


def inspect(
    model: Annotated[
        str | None, typer.Argument(help=MODEL_HELP + " Not with --criteria.", show_default=False)
    ] = None,
    input: Annotated[
        list[str] | None, typer.Option("--input", "-i", help=INPUT_HELP, show_default=False)
    ] = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    target: TargetName = "host",
    threads: Threads = None,
    include: Include = None,
    exclude: Exclude = None,
    submodule: Submodule = None,
    inside_heads: InsideHeads = None,
    prune_outputs: PruneOutputs = False,
    criteria: Annotated[
        bool,
        typer.Option("--criteria", help="List the importance criteria instead; needs no model."),
    ] = False,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Also list the fused kernels: rule, tiling, work.")
    ] = False,
    time: Annotated[
        bool,
        typer.Option(
            "--time",
            help="List kernels with their share of the time, and what pruning can save, from the latency "
            "table.",
        ),
    ] = False,
    tables: Tables = None,
    json: Json = False,
) -> None:
    """Show the channel groups and residual blocks of a model, what cannot go and why, and its kernels."""
    if criteria:
        show_criteria(json)
        return
    if model is None or not input:
        param = "'MODEL'" if model is None else "'--input' / '-i'"
        raise typer.BadParameter("missing; only --criteria needs none", param_hint=param)
    from hwprune.api import analyse_model
    from hwprune.dependency.blocks import find_blocks
    from hwprune.modelspec import example_inputs, load_model
    from hwprune.planner.widths import group_widths

    resolved = load_target(target, threads=threads)
    network = load_model(model, weights, trust_pickle=trust_pickle)
    captured, deps = analyse_model(
        network,
        example_inputs(input),
        include=include or (),
        exclude=exclude or (),
        submodule=submodule,
        inside_heads=inside_heads or (),
        prune_outputs=prune_outputs,
    )
    widths = group_widths(deps, captured.graph.graph, resolved)
    groups: list[dict[str, Any]] = [
        {
            "name": g.name,
            "channels": g.size * g.channels_per_unit,
            "multiple": widths[g.name].multiple,
            "widths": list(widths[g.name].widths),
            "layers": sorted({m.param.rpartition(".")[0] for m in g.members}),
            "exempt": widths[g.name].exempt,
            "norms_of_kept_channels": list(g.statistics),
        }
        for g in deps.groups
    ]
    ledger = [{"name": r.name, "channels": r.channels, "reason": r.reason} for r in deps.ledger]
    blocks = [{"name": b.name, "reason": b.reason} for b in find_blocks(captured, deps)]
    data: dict[str, Any] = {
        "model": model,
        "target": resolved.name,
        "groups": groups,
        "blocks": blocks,
        "ledger": ledger,
    }
    if kernels or time:
        data.update(_kernels(captured, deps, resolved, tables, time))
    said = _verdict(captured, deps, resolved, tables) if time else None
    if said is not None:
        data["verdict"] = verdict_data(said)

    def human() -> None:
        header = ("group", "channels", "multiple", "layers")
        rows = [(g["name"], g["channels"], g["multiple"], len(g["layers"])) for g in groups]
        print_table(f"{len(groups)} groups of channels", header, rows)
        if blocks:
            rows = [(b["name"], b["reason"] or "can be removed") for b in blocks]
            print_table(f"{len(blocks)} residual blocks", ("block", "verdict"), rows)
        print_table("ledger", ("name", "channels", "reason"), [tuple(line.values()) for line in ledger])
        if kernels or time:
            _print_kernels(data)
        if said is not None:
            show_verdict(said)
        elif time:
            say("the table lacks kernels that say what pruning can save; hwprune profile adds them")

    emit(data, json, human)


def _kernels(
    captured: Captured, deps: Dependencies, target: Target, tables: Path | None, time: bool
) -> dict[str, Any]:
    """Every fused kernel with its rule, and what the latency table says about it."""
    from hwprune.compile.listing import fallback_share, list_kernels
    from hwprune.latency.fusion import fuse
    from hwprune.planner.workbench import recorded

    families = fuse(captured.graph).families(deps.extents)
    steps = [(f.name, f.at(deps.dense_widths)) for f in families]
    directory, times, choices = recorded(target, tables)
    lines = list_kernels(steps, target, times if time else {}, choices)
    listed = [
        {"step": line.name, "kernel": line.label, "groups": list(f.groups), **line.figures()}
        for f, line in zip(families, lines, strict=True)
    ]
    found: dict[str, Any] = {"kernels": listed}
    if time:
        found["measured"] = sum(line.us is not None for line in lines)
        found["fallback_share"] = fallback_share(lines)
        found["table"] = str(directory)
    return found


def _verdict(captured: Captured, deps: Dependencies, target: Target, tables: Path | None) -> Verdict | None:
    """What the latency table says that pruning can do; None where it has too few kernels for that."""
    from hwprune.errors import KernelMissError
    from hwprune.measure.site import LocalSite
    from hwprune.planner.verdict import judge
    from hwprune.planner.workbench import Workbench, measure_profile

    site, care = LocalSite(), measure_profile("quick")
    bench = Workbench.open(captured, deps, target, profile=care, tables=tables, site=site)
    table = bench.known_table()
    if table is None:
        return None
    try:
        return judge(bench.model, table, target=target.name, ledger=deps.ledger, unit=target.unit)
    except KernelMissError:
        return None


def _print_kernels(data: dict[str, Any]) -> None:
    header = ["step", "kernel", "rule", "tiling", "MFLOP"]
    rows = [[k["step"], k["kernel"], k["rule"], k["tiling"], 1e3 * k["gflop"]] for k in data["kernels"]]
    timed = "measured" in data
    if timed:
        header += ["us", "GFLOP/s", "share"]
        for row, k in zip(rows, data["kernels"], strict=True):
            known = k["us"] is not None
            row += [f"{k['us']:.1f}", f"{k['gflop_per_s']:.1f}", f"{k['share']:.1%}"] if known else ["-"] * 3
    else:
        header += ["depends on"]
        for row, k in zip(rows, data["kernels"], strict=True):
            row.append(", ".join(k["groups"]))
    print_table("kernels", header, rows)
    if timed:
        count = f"{data['measured']} of {len(rows)} kernels are in table {data['table']}"
        hint = "" if data["measured"] == len(rows) else "; hwprune profile adds them"
        say(count + hint)
    falling = [k for k in data["kernels"] if k["falls_back"]]
    if falling:
        share = data.get("fallback_share")
        known = "" if share is None else f", {share:.1%} of the measured time"
        say(f"without a schedule rule{known}: {len(falling)}")
        for k in falling:
            part = "" if k["share"] is None else f" ({k['share']:.1%})"
            say(f"  {k['step']}: {k['kernel']}: {k['rule']}{part}: {k['tiling']}")
