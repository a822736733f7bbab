"""The verb that measures kernels: profile."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hwprune.cli.common import (
    Care,
    DeviceKey,
    Exclude,
    Include,
    Inputs,
    Json,
    Minimum,
    Model,
    Rpc,
    SearchFirst,
    Seed,
    Tables,
    TargetName,
    Threads,
    TrackerAddress,
    Winograd,
    emit,
    print_table,
    progress_bar,
    resolve_target,
    say,
)
from hwprune.cli.quantities import parse_seconds, parse_share
from hwprune.cli.sweeps import report_sweeps, sweep_data


def register(app: typer.Typer) -> None:
    """Add the verb of this file to the command line."""
    app.command()(profile)


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
