"""Verbs about plan files: plan show, diff, check, beside the verb that makes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from hwprune.cli.common import (
    Care,
    Json,
    Tables,
    Threads,
    TrustPickle,
    Weights,
    Winograd,
    complain,
    emit,
    print_table,
    progress_bar,
    require_file,
    resolve_target,
    say,
)
from hwprune.cli.default_verb import with_verbs
from hwprune.cli.frontiers import show_stored
from hwprune.errors import PlanError, UsageError

if TYPE_CHECKING:
    from hwprune.planning.findings import PlanCheck
    from hwprune.solve.plan import Plan
    from hwprune.solve.plan_diff import PlanDiff

#: Lines of a listing for people; ``--json`` lists everything.
_LISTED = 10

PlanFile = Annotated[
    Path,
    typer.Argument(metavar="PLAN", help="Plan file, or directory of a pruned model.", show_default=False),
]

verbs = typer.Typer()

#: What `hwprune plan --help` says at its end.
EPILOG = (
    "Plan files: `hwprune plan show PLAN`, `hwprune plan diff PLAN PLAN` and "
    "`hwprune plan check PLAN --model MODEL`; each has --help."
)


def plan_command() -> type[TyperCommand]:
    """The class of the verb ``plan``, which hands over to the verbs of this file by name."""
    return with_verbs(verbs, lambda word: ":" in word)


@verbs.command()
def show(plan: PlanFile, json: Json = False) -> None:
    """Show what a plan keeps, why, and what it was proven to be worth; or the points of a frontier."""
    from hwprune.planning.frontiers import read_frontier

    curve = read_frontier(plan) if plan.is_file() else None
    if curve is not None:
        emit({"frontier": str(plan), **curve}, json, lambda: show_stored(plan, curve))
        return
    made = _load(plan)
    emit({"plan": str(plan), **made.model_dump(mode="json")}, json, lambda: print_plan(made))


@verbs.command()
def diff(
    first: PlanFile,
    second: PlanFile,
    choice: Annotated[
        bool, typer.Option("--choice", help="Only compare what is kept, not budgets and predictions.")
    ] = False,
    json: Json = False,
) -> None:
    """Say how two plans differ: channels, blocks and resolution first, then everything else.

    How long solving took is no difference. Exit code 1 when they differ.
    """
    from hwprune.solve.plan_diff import diff_plans

    found = diff_plans(_load(first), _load(second))
    data = {"first": str(first), "second": str(second), **found.to_dict()}
    emit(data, json, lambda: _print_diff(found, choice))
    if not (found.same_choice if choice else found.same):
        raise typer.Exit(1)


@verbs.command()
def check(
    plan: PlanFile,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="Factory of the dense model: package.module:factory or file.py:factory.",
            show_default=False,
        ),
    ],
    input: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="Shape of an input, as for plan. Default: what the plan says."),
    ] = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", "-t", help="Device to price it on. Default: the plan's.", show_default=False
        ),
    ] = None,
    threads: Threads = None,
    winograd: Winograd = True,
    device: Annotated[
        str | None,
        typer.Option(metavar="SLUG", help="A device that cannot be reached: price by its table."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Measure missing kernels, and time the plan beside the dense network."
        ),
    ] = False,
    care: Care = "quick",
    output: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the plan with what it is found to take.", show_default=False),
    ] = None,
    tables: Tables = None,
    json: Json = False,
) -> None:
    """Check a plan against its model: groups, blocks, alignment, kernels, latency, and the cut itself.

    The cut is compared with the masked original. Exit code 1 when anything is wrong.
    """
    from hwprune.measure.sites import site_for
    from hwprune.modelspec import example_inputs, load_model
    from hwprune.planning.check import check_plan

    if output is not None:
        require_file(output)
    made = _load(plan)
    resolved = resolve_target(target or made.target, threads, winograd)
    site = None if device is None else site_for(resolved, device=device, tables=tables)
    network = load_model(model, weights, trust_pickle=trust_pickle)
    with progress_bar() as progress:
        found = check_plan(
            made,
            network,
            example_inputs(input or _shapes(made)),
            resolved,
            profile=care,
            tables=tables,
            site=site,
            measure=measure,
            progress=progress,
        )
    data = _check_data(plan, made, found)
    emit(data, json, lambda: _print_check(plan, found))
    bad = [finding for finding in found.findings if finding.level == "bad"]
    if bad:
        for finding in bad:
            complain(f"  {finding.about}: {finding.text}")
        raise PlanError(
            f"plan {plan} must not be applied as it is: {len(bad)} findings",
            hint="correct what is named, give the model that it was made for, or plan again",
        )
    if output is not None:
        if found.priced is None:
            raise PlanError(
                f"plan {plan} could not be priced, so {output} was not written", hint="add --measure"
            )
        found.priced.save(output)
        complain(f"written to {output}")


def print_plan(plan: Plan) -> None:
    """A plan for people."""
    from hwprune.solve.plan import SUMMARY_HEADER
    from hwprune.solve.plan_words import plan_words

    limited = any(g.allowed is not None or g.floor is not None for g in plan.groups)
    header = (*SUMMARY_HEADER, "allowed") if limited else SUMMARY_HEADER
    rows = [
        (*row, _allowed(group.allowed, group.floor)) if limited else row
        for row, group in zip(plan.summary_rows(), plan.groups, strict=True)
    ]
    print_table(f"plan for {plan.model} on {plan.target}", header, rows)
    for about, text in plan_words(plan).items():
        say(f"{about}: {text}")
    for line in plan.ledger[:_LISTED]:
        channels = f" ({line.channels} channels)" if line.channels else ""
        say(f"kept: {line.name}{channels}: {line.reason}")
    if len(plan.ledger) > _LISTED:
        say(f"and {len(plan.ledger) - _LISTED} more that could not be pruned")


def _load(path: Path) -> Plan:
    """A plan file, or the plan that a pruned model was made by."""
    from hwprune.planning.frontiers import read_frontier
    from hwprune.solve.plan import Plan
    from hwprune.surgery.saved import PLAN_FILE, stored_plan

    if path.is_dir():
        if not (path / PLAN_FILE).is_file():
            near = ", ".join(str(each) for each in sorted(path.glob("*.json"))[:3])
            raise PlanError(
                f"{path} is no directory of a pruned model: it holds no {PLAN_FILE}",
                hint=f"give one of its files: {near}" if near else "give a plan file",
            )
        return Plan.read(stored_plan(path), path)
    curve = read_frontier(path) if path.is_file() else None
    if curve is not None:
        points = [str(path.parent / point["plan"]) for point in curve["points"]]
        raise PlanError(
            f"{path} is a frontier of {len(points)} plans, not a plan",
            hint=f"give one of {', '.join(points[:3])}{', ...' if len(points) > 3 else ''}",
        )
    return Plan.load(path)


def _allowed(widths: str | None, floor: int | None) -> str:
    least = "" if floor is None else f"at least {floor}"
    return ", ".join(part for part in (widths or "", least) if part)


def _print_diff(found: PlanDiff, choice: bool) -> None:
    lines = found.choice if choice else (*found.choice, *found.figures)
    for line in lines:
        say(line)
    if found.same_choice:
        say(
            "both keep the same"
            if lines
            else "the plans keep the same"
            if choice
            else "the plans are the same"
        )


def _shapes(plan: Plan) -> list[str]:
    if plan.submodule is not None or not plan.inputs:
        known = "those of a part of the model only" if plan.inputs else "none"
        raise UsageError(
            f"the plan says of the shapes of inputs {known}",
            hint="give them with --input, as for hwprune plan",
        )
    return ["x".join(map(str, shape)) for shape in plan.inputs]


def _check_data(path: Path, plan: Plan, found: PlanCheck) -> dict[str, Any]:
    price = found.prediction
    return {
        "plan": str(path),
        "good": found.good,
        "edited": plan.edited,
        "findings": [vars(finding) for finding in found.findings],
        "max_rel_error": found.error,
        "predicted_ns": None if price is None else price.latency_ns,
        "low_ns": None if price is None else price.low_ns,
        "high_ns": None if price is None else price.high_ns,
        "missing": list(found.missing),
    }


def _print_check(path: Path, found: PlanCheck) -> None:
    say(f"plan {path}: {'good' if found.good else 'NOT GOOD'}")
    for finding in found.findings:
        say(f"  {finding.level}: {finding.about}: {finding.text}")
