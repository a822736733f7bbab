"""Verbs for devices that cannot be reached: pack a bundle, read what came back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwprune.cli.common import (
    Care,
    Exclude,
    Include,
    Inputs,
    Json,
    Minimum,
    Model,
    Seed,
    Tables,
    TargetName,
    Threads,
    Winograd,
    complain,
    emit,
    progress_bar,
    resolve_target,
    say,
)
from hwprune.errors import UsageError

if TYPE_CHECKING:
    from hwprune.measure.carry.pack import PackReport
    from hwprune.measure.carry.record import ReadReport

Device = Annotated[
    str | None,
    typer.Option(
        metavar="SLUG",
        help="A device that cannot be reached, by the name that `hwprune carry read` prints.",
        show_default=False,
    ),
]

app = typer.Typer(
    help="Measure on a device that cannot be reached: pack, carry there, `python3 run.py`, carry back, read.",
    no_args_is_help=True,
)


def register(parent: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command()(pack)
    app.command()(read)
    parent.add_typer(app, name="carry")


def pack(
    model: Model,
    input: Inputs,
    output: Annotated[Path, typer.Option("--out", "-o", help="Directory to write.")] = Path("carried"),
    target: TargetName = "host",
    threads: Threads = None,
    include: Include = None,
    exclude: Exclude = None,
    care: Care = "quick",
    winograd: Winograd = True,
    network: Annotated[
        bool, typer.Option("--network", help="Also time the whole dense network, which makes plans exact.")
    ] = False,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", help="Also time the network that a plan makes, beside the dense one."),
    ] = None,
    device: Device = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only what the table of --device lacks, or plans asked for.")
    ] = False,
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="Directory with libtvm_ffi.so and libtvm_runtime.so for the target's architecture, such as"
            " unpacked wheels. Default: those of this machine."
        ),
    ] = None,
    tables: Tables = None,
    minimum: Minimum = 0.1,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Build the kernels of a model into a directory that times them on a device that has only Python.

    Takes the options of `hwprune profile`. On the device: `python3 run.py`, which can be interrupted
    and run again; then carry results.json.gz (or the whole directory) back and read it.
    """
    from hwprune.api import analyse_model
    from hwprune.latency.choice import ChoiceTable
    from hwprune.measure.carry.pack import pack as pack_bundle
    from hwprune.measure.runners.carry import CarriedSite
    from hwprune.modelspec import example_inputs, load_model
    from hwprune.planner.carried import CarriedWorkbench
    from hwprune.planner.workbench import Workbench, measure_profile
    from hwprune.solve.plan import Plan

    resolved, measured = resolve_target(target, threads, winograd), measure_profile(care)
    if missing and device is None:
        raise UsageError("--missing needs to know of which device", hint="name it with --device SLUG")
    site = CarriedSite(device, resolved, tables) if device else None
    captured, deps = analyse_model(
        load_model(model), example_inputs(input), include=include or (), exclude=exclude or ()
    )
    with progress_bar() as progress:
        bench = CarriedWorkbench.of(
            Workbench.open(
                captured,
                deps,
                resolved,
                profile=measured,
                minimum=minimum,
                tables=tables,
                site=site,
                seed=seed,
                progress=progress,
            )
        )
        specs = bench.wanted() if missing else bench.needed()
        networks = {"dense": bench.program_at(bench.dense_widths())} if network or plan_file else {}
        if plan_file is not None:
            networks["plan"] = bench.planned(Plan.load(plan_file))
        if not specs and not networks:
            emit(
                {"directory": None, "kernels": 0},
                json,
                lambda: say(f"the table of device {device} lacks nothing: no bundle is needed"),
            )
            return
        report = pack_bundle(
            specs,
            resolved,
            output,
            pipeline=bench.pipeline,
            networks=networks,
            profile=measured,
            seed=seed,
            choices=ChoiceTable.load(site.directory) if site else None,
            runtime=runtime,
            progress=progress,
        )
    emit(_pack_data(report), json, lambda: _show_packed(report))


def read(
    place: Annotated[
        Path, typer.Argument(help="The bundle's directory as it came back, or its results.json.gz alone.")
    ],
    bundle: Annotated[
        Path | None,
        typer.Option(help="Directory of the bundle, if the results came back alone.", show_default=False),
    ] = None,
    tables: Tables = None,
    json: Json = False,
) -> None:
    """Verify what a device has measured, and write it into the latency table of that device."""
    from hwprune.measure.carry.record import record
    from hwprune.measure.carry.results import open_carried

    report = record(open_carried(place, bundle), tables)
    for warning in report.warnings:
        complain(f"warning: {warning}")
    emit(_read_data(report), json, lambda: _show_read(report))


def _pack_data(report: PackReport) -> dict[str, Any]:
    return {
        "directory": str(report.directory),
        "kernels": report.kernels,
        "networks": report.networks,
        "failures": dict(report.failures),
        "bytes": report.size_bytes,
    }


def _show_packed(report: PackReport) -> None:
    for label, reason in report.failures.items():
        say(f"not built: {label}: {reason}")
    say(
        f"{report.kernels} kernels and {report.networks} networks in {report.directory}"
        f" ({report.size_bytes / 1e6:.1f} MB)"
    )
    say("on the device: python3 run.py (Python 3.8 or newer, nothing else); then: hwprune carry read")


def _read_data(report: ReadReport) -> dict[str, Any]:
    return {
        "table": str(report.directory),
        "device": report.device,
        "good": report.good,
        "untrusted": report.untrusted,
        "kept": report.kept,
        "networks_ns": report.networks_ns,
        "failures": report.failures,
        "missing": report.missing,
        "warnings": report.warnings,
    }


def _show_read(report: ReadReport) -> None:
    for label, reason in report.failures.items():
        say(f"failed: {label}: {reason}")
    say(f"{report.good} kernels of device {report.device} in {report.directory}")
    say(
        f"{report.untrusted} untrusted, {len(report.failures)} failed, {len(report.missing)} not reached,"
        f" {report.kept} were better before"
    )
    for name, ns in report.networks_ns.items():
        share = f" ({ns / dense:.1%} of the dense one)" if (dense := report.networks_ns.get("dense")) else ""
        say(f"network {name}: {ns / 1e6:.3f} ms{share if name != 'dense' else ''}")
    say(f"plan for it: hwprune plan ... --device {report.device}")
