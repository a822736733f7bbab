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
from hwprune.cli.plans import EPILOG, plan_command, print_plan
from hwprune.cli.quantities import parse_seconds, parse_share
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
    app.command(cls=plan_command(), epilog=EPILOG)(plan)
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
    bound: Annotated[
        str, typer.Option(help="Measure until interpolation errs by no more than this share of the latency.")
    ] = "2%",
    budget: Annotated[
        str, typer.Option(help='Begin no further round of measuring after this long ("90s", "10min", "1h").')
    ] = "10min",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Measure the kernels of a model at the widths that a plan may choose. Can be interrupted.

    A coarse grid comes first, then the kernels that the others predict worst, weighed by their share
    of the network's time. Kernels that cannot be built, crash, hang or return wrong values are listed
    and left out; the exit code is then 1.
    """
    from hwprune.api import analyse_model
    from hwprune.measure.sites import site_for
    from hwprune.modelspec import example_inputs, load_model
    from hwprune.planner.profiled import profile_network
    from hwprune.planner.workbench import Workbench, measure_profile

    error, seconds = parse_share(bound), parse_seconds(budget)
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
        done = profile_network(bench, bound=error, budget_s=seconds)
    sampling = done.sampling
    data = {
        "table": str(bench.directory),
        "rows": len(done.table),
        "kernels": sampling.kernels,
        "seconds": round(sampling.seconds, 1),
        "bound": sampling.bound,
        "error": sampling.error,
        "bound_met": sampling.met,
        "families": done.families(),
        **sweep_data(bench.sweeps),
    }
    emit(data, json, lambda: _show_families(data))
    report_sweeps(bench.sweeps)


def _show_families(data: dict[str, Any]) -> None:
    def steps(found: dict[str, int | None]) -> str:
        return ", ".join(f"{group}: {'-' if a is None else a}" for group, a in found.items())

    header = ("kernels", "share", "error", "measured", "steps of channels")
    rows = [
        (
            f["family"],
            f"{f['share']:.1%}",
            f"{f['error']:.1%}",
            f"{f['measured']}/{f['offered']}",
            steps(f["alignment"]),
        )
        for f in data["families"]
    ]
    print_table("families of kernels", header, rows)
    met = "within" if data["bound_met"] else "not within"
    say(f"interpolation errs by {data['error']:.2%} of the latency, {met} the bound of {data['bound']:.1%}")
    say(f"{data['rows']} kernels in {data['table']}")


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
    print_plan(made)
    say(f"written to {path}")
