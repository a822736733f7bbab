"""Verbs that choose and cut: profile, plan, prune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwprune.cli.common import (
    Care,
    Data,
    DeviceKey,
    Exclude,
    Include,
    Inputs,
    InsideHeads,
    Json,
    Minimum,
    Model,
    PruneOutputs,
    Rpc,
    SearchFirst,
    Seed,
    Submodule,
    Tables,
    TargetName,
    Threads,
    TrackerAddress,
    TrustPickle,
    Weights,
    Winograd,
    complain,
    emit,
    print_table,
    progress_bar,
    require_directory,
    require_file,
    resolve_target,
    say,
)
from hwprune.cli.sweeps import report_sweeps, sweep_data

Latency = Annotated[
    str,
    typer.Option(
        "--latency",
        "-l",
        help='Budget: a share of the dense model\'s measured latency ("50%") or a time ("8ms").',
    ),
]
CarriedDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="SLUG",
        help="Plan for a device that cannot be reached, from its table alone (see `hwprune carry`); "
        "nothing is measured, and no plan is checked end to end.",
        show_default=False,
    ),
]
Criterion = Annotated[
    str | None,
    typer.Option(
        help="Importance of channels: l1, l2, bn_scale, or taylor2019 (needs --data). "
        "Default: taylor2019 with --data, else l2."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command()(profile)
    app.command()(plan)
    app.command()(prune)


def profile(
    model: Model,
    input: Inputs,
    target: TargetName = "host",
    threads: Threads = None,
    include: Include = None,
    exclude: Exclude = None,
    care: Care = "quick",
    search: SearchFirst = False,
    winograd: Winograd = True,
    tables: Tables = None,
    minimum: Minimum = 0.1,
    rpc: Rpc = None,
    tracker: TrackerAddress = None,
    key: DeviceKey = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Measure the kernels of a model at the widths that a plan may choose. Can be interrupted.

    Kernels that cannot be built, crash, hang or return wrong values are listed and left out; the
    exit code is then 1.
    """
    from hwprune.api import analyse_model
    from hwprune.measure.sites import site_for
    from hwprune.modelspec import example_inputs, load_model
    from hwprune.planner.workbench import Workbench, measure_profile

    resolved, measured = resolve_target(target, threads, winograd), measure_profile(care)
    site = site_for(resolved, rpc, tracker, key)
    captured, deps = analyse_model(
        load_model(model), example_inputs(input), include=include or (), exclude=exclude or ()
    )
    with progress_bar() as progress:
        bench = Workbench.open(
            captured,
            deps,
            resolved,
            profile=measured,
            minimum=minimum,
            tables=tables,
            search=search,
            seed=seed,
            site=site,
            progress=progress,
        )
        table = bench.measure_kernels(bench.model.specs())
    data = {
        "table": str(bench.directory),
        "rows": len(table),
        "kernels": len(bench.model.specs()),
        **sweep_data(bench.sweeps),
    }
    emit(data, json, lambda: say(f"{data['rows']} kernels in {data['table']}"))
    report_sweeps(bench.sweeps)


def plan(
    model: Model,
    input: Inputs,
    output: Annotated[Path, typer.Option("--out", "-o", help="Plan file to write.")] = Path("plan.json"),
    latency: Latency = "50%",
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    target: TargetName = "host",
    threads: Threads = None,
    criterion: Criterion = None,
    data: Data = None,
    include: Include = None,
    exclude: Exclude = None,
    submodule: Submodule = None,
    inside_heads: InsideHeads = None,
    prune_outputs: PruneOutputs = False,
    care: Care = "quick",
    search: SearchFirst = False,
    winograd: Winograd = True,
    tables: Tables = None,
    minimum: Minimum = 0.1,
    checks: Annotated[
        int, typer.Option(min=0, help="Candidate plans to build and time at most; 0 trusts the prediction.")
    ] = 3,
    rpc: Rpc = None,
    tracker: TrackerAddress = None,
    key: DeviceKey = None,
    device: CarriedDevice = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Choose the widths that keep most importance under a latency budget.

    Kernels that the latency table lacks are measured first. Can be interrupted.
    """
    from hwprune import api
    from hwprune.measure.sites import site_for
    from hwprune.modelspec import example_inputs, load_data, load_model

    require_file(output)
    resolved = resolve_target(target, threads, winograd)
    site = site_for(resolved, rpc, tracker, key, device=device, tables=tables)
    with progress_bar() as progress:
        planned = api.plan(
            load_model(model, weights, trust_pickle=trust_pickle),
            example_inputs(input),
            resolved,
            latency,
            load_data(data) if data else None,
            criterion=criterion,
            include=include or (),
            exclude=exclude or (),
            submodule=submodule,
            inside_heads=inside_heads or (),
            prune_outputs=prune_outputs,
            profile=care,
            tables=tables,
            search=search,
            minimum=minimum,
            checks=checks,
            site=site,
            seed=seed,
            progress=progress,
        )
    planned.plan.save(output)
    emit(
        _plan_data(planned.plan, planned.loop.measured_ns, output), json, lambda: _show(planned.plan, output)
    )


def prune(
    model: Model,
    input: Inputs,
    plan_file: Annotated[Path, typer.Option("--plan", "-p", help="Plan file to apply.")],
    output: Annotated[Path, typer.Option("--out", "-o", help="Directory to write.")] = Path("pruned"),
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    include: Include = None,
    exclude: Exclude = None,
    json: Json = False,
) -> None:
    """Cut a model by a plan, verify it against the masked original, and save it."""
    from hwprune import api
    from hwprune.modelspec import example_inputs, load_model
    from hwprune.solve.plan import Plan

    require_directory(output, "plan.json")
    made = Plan.load(plan_file)
    if made.edited:
        complain(f"warning: {plan_file} was edited by hand; the latency it predicts may no longer hold")
    pruned = api.apply_plan(
        load_model(model, weights, trust_pickle=trust_pickle),
        example_inputs(input),
        made,
        include=include or (),
        exclude=exclude or (),
    )
    api.save(pruned, output)
    data = {
        "directory": str(output),
        "class": type(pruned.model).__name__,
        "max_rel_error": pruned.max_rel_error,
        "edited": made.edited,
        "parameters": sum(p.numel() for p in pruned.model.parameters()),
        "groups": [vars(outcome) for outcome in pruned.outcomes if outcome.reason is None],
        "ledger": [{"name": r.name, "channels": r.channels, "reason": r.reason} for r in pruned.ledger],
    }
    text = f"{data['class']} with {data['parameters']:,} parameters in {output}; equals the masked original"
    emit(data, json, lambda: say(f"{text} (error {pruned.max_rel_error:.1e})"))


def _plan_data(made: Any, measured_ns: float | None, path: Path) -> dict[str, Any]:
    return {"plan": str(path), "measured_ns": measured_ns, **made.model_dump(mode="json")}


def _show(made: Any, path: Path) -> None:
    from hwprune.solve.plan import SUMMARY_HEADER

    print_table(f"plan for {made.model} on {made.target}", SUMMARY_HEADER, made.summary_rows())
    dense, budget, predicted = (ns / 1e6 for ns in (made.dense_ns, made.budget_ns, made.predicted_ns))
    say(f"dense {dense:.3f} ms measured; budget {budget:.3f} ms ({made.budget_asked})")
    say(f"predicted {predicted:.3f} ms; importance kept within {made.gap:.1e} of the optimum")
    for line in made.ledger:
        say(f"kept: {line.name} ({line.channels} channels): {line.reason}")
    say(f"written to {path}")
