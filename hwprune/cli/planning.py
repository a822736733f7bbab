"""Verbs that choose and cut: plan, prune."""

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
    Threads,
    TrackerAddress,
    TrustPickle,
    Weights,
    Winograd,
    emit,
    progress_bar,
    require_directory,
    require_file,
    resolve_target,
    say,
)
from hwprune.cli.cuts import cut_data, cut_sentence
from hwprune.cli.frontiers import show_frontier, show_verdict, verdict_data
from hwprune.cli.plan_asked import plan_options, read_budgets, require_apart, require_one_target
from hwprune.cli.plan_options import (
    Calibrate,
    CalibrateRepair,
    CarriedDevice,
    Checkpoint,
    Checks,
    Criterion,
    Depth,
    Floor,
    Joint,
    Latencies,
    LayerLimit,
    Memory,
    MostHarm,
    OnlyVerdict,
    Parameters,
    Pareto,
    Plot,
    Resolutions,
    Solver,
    TargetNames,
    Weight,
)
from hwprune.cli.plans import EPILOG, plan_command, print_plan


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command(cls=plan_command(), epilog=EPILOG)(plan)
    app.command()(prune)


def plan(
    model: Model,
    input: Inputs,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="File to write. Default: plan.json, with --pareto frontier.json.",
            show_default=False,
        ),
    ] = None,
    latency: Latencies = None,
    floor: Floor = None,
    parameters: Parameters = None,
    memory: Memory = None,
    limit: LayerLimit = None,
    depth: Depth = False,
    resolution: Resolutions = None,
    calibrate: Calibrate = None,
    calibrate_repair: CalibrateRepair = None,
    most_harm: MostHarm = None,
    checkpoint: Checkpoint = None,
    solver: Solver = "milp",
    joint: Joint = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    target: TargetNames = None,
    weight: Weight = None,
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
    checks: Checks = None,
    verdict: OnlyVerdict = False,
    pareto: Pareto = None,
    plot: Plot = None,
    rpc: Rpc = None,
    tracker: TrackerAddress = None,
    key: DeviceKey = None,
    device: CarriedDevice = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Choose the widths that keep most importance under a latency budget and other limits.

    Kernels that the latency table lacks are measured first. Can be interrupted.
    """
    from hwprune import api
    from hwprune.measure.sites import site_for
    from hwprune.modelspec import example_inputs, load_data, load_model
    from hwprune.planner.verdict import Verdict
    from hwprune.planning.frontiers import Frontier, check_place, check_plot
    from hwprune.pruned import Planned

    require_apart(pareto, plot, verdict, floor, latency or (), output)
    options = plan_options(
        floor,
        parameters,
        memory,
        limit or (),
        weight or (),
        depth=depth,
        resolution=resolution,
        calibrate=calibrate,
        calibrate_repair=calibrate_repair,
        most_harm=most_harm,
        checkpoint=checkpoint,
        solver=solver,
        joint=joint or (),
        seed=seed,
    )
    output = output or Path("frontier.json" if pareto else "plan.json")
    require_file(output)
    if pareto is not None:
        check_place(output, pareto)
    if plot is not None:
        check_plot(plot)
        require_file(plot)
    targets = [resolve_target(name, threads, winograd) for name in target or ["host"]]
    site = None
    if rpc or tracker or key or device or len(targets) == 1:
        require_one_target(targets)
        site = site_for(targets[0], rpc, tracker, key, device=device, tables=tables)
    with progress_bar() as progress:
        network = load_model(model, weights, trust_pickle=trust_pickle)
        asked: dict[str, Any] = {
            "data": load_data(data) if data else None,
            "options": options,
            "criterion": criterion,
            "include": include or (),
            "exclude": exclude or (),
            "submodule": submodule,
            "inside_heads": inside_heads or (),
            "prune_outputs": prune_outputs,
            "profile": care,
            "tables": tables,
            "search": search,
            "minimum": minimum,
            **({} if checks is None else {"checks": checks}),
            "site": site,
            "seed": seed,
            "progress": progress,
        }
        images = example_inputs(input)
        found: Verdict | Frontier | Planned
        if verdict:
            found = api.verdict(network, images, targets, **asked)
        elif pareto is not None:
            found = api.frontier(network, images, targets, points=pareto, **asked)
        else:
            found = api.plan(network, images, targets, read_budgets(latency or ()), **asked)
    if isinstance(found, Verdict):
        said = found
        emit(verdict_data(said), json, lambda: show_verdict(said))
    elif isinstance(found, Frontier):
        curve = found
        curve.save(output)
        if plot is not None:
            curve.plot(plot)
        files = {"frontier": str(output), "plot": None if plot is None else str(plot)}
        emit({**files, **curve.data(output)}, json, lambda: show_frontier(curve, output, plot))
    else:
        made, measured_ns = found.plan, found.loop.measured_ns
        made.save(output)
        emit(_plan_data(made, measured_ns, output), json, lambda: _show(made, output))


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
    pruned = api.apply_plan(
        load_model(model, weights, trust_pickle=trust_pickle),
        example_inputs(input),
        made,
        include=include or (),
        exclude=exclude or (),
    )
    api.save(pruned, output)
    text = f"{cut_sentence(pruned, output)}; equals the masked original"
    emit(cut_data(pruned, output), json, lambda: say(f"{text} (error {pruned.max_rel_error:.1e})"))


def _plan_data(made: Any, measured_ns: float | None, path: Path) -> dict[str, Any]:
    return {"plan": str(path), "measured_ns": measured_ns, **made.model_dump(mode="json")}


def _show(made: Any, path: Path) -> None:
    print_plan(made)
    say(f"written to {path}")
