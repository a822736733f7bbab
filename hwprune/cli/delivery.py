"""Verbs of what ships: compile, bench, report, and quickstart, which does everything."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwprune.cli.common import (
    Care,
    DeviceKey,
    Inputs,
    Json,
    Model,
    PrunedDir,
    Rpc,
    Search,
    Seed,
    Tables,
    TargetName,
    Threads,
    TrackerAddress,
    TrustPickle,
    Tune,
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
from hwprune.cli.tuning import show_tuning
from hwprune.target import load_target

if TYPE_CHECKING:
    from hwprune.measure.tune import TuneReport

Output = Annotated[Path, typer.Option("--out", "-o", help="Directory to write.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command()(compile)
    app.command()(bench)
    app.command()(report)
    app.command()(quickstart)


def compile(
    model: Model,
    input: Inputs,
    output: Output = Path("bundle"),
    pruned: PrunedDir = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    target: TargetName = "host",
    threads: Threads = None,
    check: Annotated[
        bool, typer.Option(help="Run it, here or on the device of --rpc, and compare with PyTorch.")
    ] = True,
    search: Search = None,
    search_minutes: Annotated[float | None, typer.Option(help="Begin no new search after this.")] = None,
    tune: Tune = None,
    winograd: Winograd = True,
    tables: Tables = None,
    rpc: Rpc = None,
    tracker: TrackerAddress = None,
    key: DeviceKey = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compile a model, dense or pruned, into a bundle that runs with the runtime of its target alone."""
    from hwprune.delivery import compile_model
    from hwprune.measure.sites import site_for
    from hwprune.modelspec import example_inputs

    require_directory(output, "manifest.json")
    resolved = resolve_target(target, threads, winograd)
    site = site_for(resolved, rpc, tracker, key)
    network = _model(model, pruned, weights, trust_pickle)
    reports: list[TuneReport] = []
    with progress_bar() as progress:
        module, error = compile_model(
            network,
            example_inputs(input),
            resolved,
            check=check,
            search=search,
            minutes=search_minutes,
            tune=tune,
            tuned=reports.append,
            tables=tables,
            seed=seed,
            site=site,
            progress=lambda done, total, what: progress(f"search {what}", done, total),
        )
    module.save(output, {"model": model, "pruned": str(pruned) if pruned else None})
    chosen = {k.name: k.choice for k in module.kernels if k.choice != "default"}
    data = {
        "bundle": str(output),
        "target": resolved.name,
        "threads": resolved.threads,
        "kernels": len(module.kernels),
        "chosen": chosen,
        "max_rel_error": error if check else None,
    }
    if reports:
        data["tuning"] = reports[0].to_dict()
    text = f"{data['kernels']} kernels in {output}; run it with: python {output}/run.py"
    if chosen:
        text += f" ({len(chosen)} kernels in a form found by search)"

    def human() -> None:
        for report in reports:
            show_tuning(report)
        say(text)

    emit(data, json, human)


def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle written by compile.", show_default=False)],
    dense: Annotated[Path | None, typer.Option(help="Bundle of the dense model, for comparison.")] = None,
    model: Annotated[str | None, typer.Option(help="Factory: adds PyTorch and the other backend.")] = None,
    pruned: PrunedDir = None,
    output: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the JSON here.")] = None,
    care: Care = "table",
    rpc: Rpc = None,
    tracker: TrackerAddress = None,
    key: DeviceKey = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Time a bundle beside others, interleaved in one run, with confidence intervals.

    With --rpc, or --tracker and --key, bundles are timed on the device; PyTorch and ONNX Runtime stay out.
    """
    from hwprune.artifact import atomic_write_text
    from hwprune.benchmark import bench_bundle, comparison_data
    from hwprune.measure.runners.rpc_address import rpc_place
    from hwprune.planner.workbench import measure_profile

    if output is not None:
        require_file(output)
    measured, place = measure_profile(care), rpc_place(rpc, tracker, key)
    models = {}
    if model is not None:
        models["dense"] = _model(model, None, None, False)
        if pruned is not None:
            models["pruned"] = _model(model, pruned, None, False)
    with progress_bar() as progress:
        comparison, absent = bench_bundle(
            bundle,
            dense=dense,
            models=models,
            profile=measured,
            seed=seed,
            place=place,
            progress=lambda done, total, name: progress(f"bench {name}", done, total),
        )
    data = comparison_data(comparison, absent)
    if output is not None:
        atomic_write_text(output, json_module.dumps(data, indent=1) + "\n")

    def human() -> None:
        header = ("engine", "median ms", "low", "high", "ratio", "outputs differ by")
        rows = [
            (r["name"], r["median_ms"], r["low_ms"], r["high_ms"], r["ratio"], r["max_rel_error"])
            for r in data["rows"]
        ]
        print_table(f"{comparison.threads} thread(s), interleaved; ratio to this bundle", header, rows)
        for name, reason in absent.items():
            complain(f"{name} did not take part: {reason}")
        for warning in comparison.warnings:
            complain(f"warning: {warning}")

    emit(data, json, human)


def report(
    source: Annotated[Path, typer.Argument(help="report.json, or a directory that holds one.")],
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory (default: beside it).")
    ] = None,
    json: Json = False,
) -> None:
    """Write the HTML page of a report.json again (after moving it, or with a newer hwprune)."""
    from hwprune.report.data import read_report
    from hwprune.report.page import write_report

    path = source / "report.json" if source.is_dir() else source
    page = write_report(read_report(path), output or path.parent)
    emit({"report": str(page)}, json, lambda: say(str(page)))


def quickstart(
    output: Output = Path("quickstart-out"),
    target: TargetName = "host",
    threads: Threads = None,
    care: Care = "quick",
    tables: Tables = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train a small network on handwritten digits, prune it to half its latency, and show the gain."""
    from hwprune.planner.workbench import measure_profile
    from hwprune.quickstart.run import quickstart as run

    measure_profile(care)  # an unknown one is refused before minutes of training
    with progress_bar() as progress:
        result = run(
            output,
            load_target(target, threads=threads),
            profile=care,
            tables=tables,
            seed=seed,
            progress=progress,
        )
    emit(result.to_dict(), json, lambda: _gained(result))


def _gained(result: Any) -> None:
    faster = result.latency_dense_ms / result.latency_pruned_ms
    rows = [
        ("dense", result.latency_dense_ms, f"{100 * result.accuracy_dense:.2f} %"),
        ("pruned", result.latency_pruned_ms, f"{100 * result.accuracy_pruned:.2f} %"),
    ]
    print_table("handwritten digits on this machine", ("model", "latency ms", "test accuracy"), rows)
    over = result.latency_pruned_ms / result.budget_ms - 1
    verdict = "met" if over <= 0 else f"missed by {over:.1%}"
    if over > 0 and result.met:
        verdict += " (plans are accepted within 5 %)"
    say(
        f"{faster:.2f}x faster; budget {result.budget_ms:.3f} ms {verdict}, "
        f"predicted {result.predicted_ms:.3f} ms; done in {result.seconds:.0f} s"
    )
    say(f"report: {result.report}")


def _model(name: str, pruned: Path | None, weights: Path | None, trust_pickle: bool) -> Any:
    from hwprune import api
    from hwprune.modelspec import load_factory, load_model

    if pruned is not None:
        return api.load(pruned, load_factory(name))
    return load_model(name, weights, trust_pickle=trust_pickle)
