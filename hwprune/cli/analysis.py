"""Verbs that only look: targets, inspect."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hwprune.cli.common import (
    Exclude,
    Include,
    Inputs,
    Json,
    Model,
    TargetName,
    Threads,
    TrustPickle,
    Weights,
    emit,
    print_table,
)
from hwprune.target import Target, available, load_target


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command()(targets)
    app.command()(inspect)


def targets(
    name: Annotated[str | None, typer.Argument(help="Show this target with all its keys.")] = None, json: Json = False
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
    model: Model,
    input: Inputs,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    target: TargetName = "host",
    threads: Threads = None,
    include: Include = None,
    exclude: Exclude = None,
    kernels: Annotated[bool, typer.Option("--kernels", help="Also list the fused kernels.")] = False,
    json: Json = False,
) -> None:
    """Show the channel groups of a model, what cannot be pruned and why, and its kernels."""
    from hwprune.api import analyse_model
    from hwprune.latency.fusion import fuse
    from hwprune.modelspec import example_inputs, load_model
    from hwprune.planner.widths import group_widths

    resolved = load_target(target, threads=threads)
    network = load_model(model, weights, trust_pickle=trust_pickle)
    captured, deps = analyse_model(
        network, example_inputs(input), include=include or (), exclude=exclude or ()
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
        }
        for g in deps.groups
    ]
    ledger = [{"name": r.name, "channels": r.channels, "reason": r.reason} for r in deps.ledger]
    data: dict[str, Any] = {"model": model, "target": resolved.name, "groups": groups, "ledger": ledger}
    if kernels:
        fused = fuse(captured.graph)
        data["kernels"] = [
            {"step": f.name, "kernel": f.at(deps.dense_widths).label(), "groups": list(f.groups)}
            for f in fused.families(deps.extents)
        ]

    def human() -> None:
        header = ("group", "channels", "multiple", "layers")
        rows = [(g["name"], g["channels"], g["multiple"], len(g["layers"])) for g in groups]
        print_table(f"{len(groups)} groups of channels", header, rows)
        print_table("ledger", ("name", "channels", "reason"), [tuple(line.values()) for line in ledger])
        if kernels:
            listed = [(k["step"], k["kernel"], ", ".join(k["groups"])) for k in data["kernels"]]
            print_table("kernels", ("step", "kernel", "depends on"), listed)

    emit(data, json, human)
