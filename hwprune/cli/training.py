"""The verbs that train: iterate, and repair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    TrustPickle,
    Weights,
    Winograd,
    emit,
    progress_bar,
    require_directory,
    resolve_target,
    say,
)
from hwprune.cli.cuts import rounds_data, show_rounds
from hwprune.cli.training_options import (
    Distill,
    Evaluate,
    Final,
    Fit,
    FitExamples,
    FitMemory,
    FitRounds,
    Lr,
    More,
    Optimizer,
    Ridge,
    TrainData,
    final_training,
    fitting,
    taught,
    training,
)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command()(iterate)
    app.command()(repair)


def iterate(
    model: Model,
    input: Inputs,
    data: TrainData,
    output: Annotated[Path, typer.Option("--out", "-o", help="Directory to write.")] = Path("iterated"),
    latency: Annotated[
        str,
        typer.Option(
            "--latency",
            "-l",
            help='Budget after the last round: a share of the dense model\'s measured latency ("50%") or a '
            'time ("8ms").',
        ),
    ] = "50%",
    rounds: Annotated[int, typer.Option(min=1, help="Number of cuts.")] = 5,
    schedule: Annotated[
        str,
        typer.Option(
            help="How the latency comes down: linear (equal steps), exponential (equal factors) or agp (fast "
            "at first)."
        ),
    ] = "agp",
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training after each cut.")] = 1,
    lr: Lr = 0.01,
    optimizer: Optimizer = "sgd",
    fit: FitRounds = "least-squares",
    fit_examples: FitExamples = 512,
    fit_memory: FitMemory = 1.0,
    ridge: Ridge = 1e-3,
    train: More = None,
    final: Final = None,
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    distill: Distill = None,
    evaluate: Evaluate = None,
    criterion: Annotated[
        str,
        typer.Option(
            metavar="NAME[:PARAMETER=VALUE...]",
            help="Importance of channels, see `hwprune inspect --criteria`. With one that needs data scores "
            "build up while the model is trained.",
        ),
    ] = "taylor2019",
    scored: Annotated[
        str | None,
        typer.Option(
            metavar="FACTORY",
            help="Factory of batches that channels are scored by. Default: those of --data.",
            show_default=False,
        ),
    ] = None,
    batches: Annotated[int, typer.Option(min=1, help="Batches that are scored at most.")] = 32,
    every: Annotated[int, typer.Option(min=1, help="Training steps from one scored batch to the next.")] = 10,
    momentum: Annotated[
        float, typer.Option(help="What the average of scores keeps of itself with each scored batch.")
    ] = 0.9,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="FACTORY",
            help="Factory of held-out (inputs, labels) batches. What widths are worth is then read off the "
            "loss on them, anew in each round.",
            show_default=False,
        ),
    ] = None,
    target: TargetName = "host",
    threads: Threads = None,
    include: Include = None,
    exclude: Exclude = None,
    minimum: Minimum = 0.1,
    checks: Annotated[
        int,
        typer.Option(
            min=0, help="Candidate plans to build and time at most, in each round; 0 trusts the prediction."
        ),
    ] = 3,
    care: Care = "quick",
    search: SearchFirst = False,
    winograd: Winograd = True,
    tables: Tables = None,
    rpc: Rpc = None,
    tracker: TrackerAddress = None,
    key: DeviceKey = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Cut, fit and train in rounds, down to a latency budget. Interrupted runs go on when called again.

    Scores of channels build up while the model is trained. The result is like that of prune and
    repair: compile, bench and repair take it.
    """
    from hwprune import api
    from hwprune.measure.sites import site_for
    from hwprune.modelspec import example_inputs, load_data, load_model
    from hwprune.planner.options import PlanOptions
    from hwprune.planning.asked import IterativeOptions
    from hwprune.planning.rounds import STATE_FILE, forget_rounds
    from hwprune.repair.accuracy import evaluate_accuracy
    from hwprune.repair.options import finetune_options
    from hwprune.validated import validated

    repairing = fitting(fit, examples=fit_examples, memory_gb=fit_memory, ridge=ridge, seed=seed)
    each = {"epochs": epochs, "lr": lr, "optimizer": optimizer, "seed": seed, **training(train or ())}
    asked = {
        "rounds": rounds,
        "schedule": schedule,
        "momentum": momentum,
        "every": every,
        "batches": batches,
        "repair": None if repairing.method == "none" else repairing,
        "finetune": finetune_options(**each),
        "final": finetune_options(**{**each, **final_training(final)}) if final else None,
    }
    options = validated(IterativeOptions, asked, "pruning in rounds")
    # Beside the output, not in it: the output appears complete or not at all.
    place = output if output.name else output.absolute()
    checkpoint = place.with_name(place.name + ".rounds")
    require_directory(output, "plan.json")
    require_directory(checkpoint, STATE_FILE)
    resolved = resolve_target(target, threads, winograd)
    site = site_for(resolved, rpc, tracker, key)
    with progress_bar() as progress:
        network = load_model(model, weights, trust_pickle=trust_pickle)
        test = None if evaluate is None else load_data(evaluate, again=True)
        found = api.prune_iteratively(
            network,
            example_inputs(input),
            resolved,
            latency,
            train=load_data(data, again=True),
            data=load_data(scored) if scored else None,
            options=options,
            plan_options=PlanOptions(held_out=load_data(calibrate) if calibrate else None),
            criterion=criterion,
            teacher=network if taught(distill, weights) else None,
            evaluate=None if test is None else lambda cut: evaluate_accuracy(cut, test),
            checkpoint=checkpoint,
            minimum=minimum,
            progress=progress,
            include=include or (),
            exclude=exclude or (),
            checks=checks,
            profile=care,
            search=search,
            tables=tables,
            site=site,
            seed=seed,
        )
        api.save(found.pruned, output)
    forget_rounds(checkpoint)
    emit(rounds_data(found, output), json, lambda: show_rounds(found, output))


def repair(
    model: Model,
    pruned: Annotated[Path, typer.Option("--pruned", help="Directory written by prune.")],
    data: TrainData,
    output: Annotated[Path, typer.Option("--out", "-o", help="Directory to write.")] = Path("repaired"),
    weights: Weights = None,
    trust_pickle: TrustPickle = False,
    evaluate: Evaluate = None,
    epochs: Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning; 0 does without.")] = 10,
    lr: Lr = 0.01,
    optimizer: Optimizer = "sgd",
    fit: Fit = None,
    fit_examples: FitExamples = 512,
    fit_memory: FitMemory = 1.0,
    ridge: Ridge = 1e-3,
    distill: Distill = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Fit, recalibrate and fine-tune a pruned model. Interrupted runs go on when called again."""
    from hwprune.modelspec import load_data, load_factory, load_model
    from hwprune.repair.saved import repair_saved
    from hwprune.surgery.saved import stored_repairs

    # Layers fitted to the dense model do not go with BatchNorms that were trained since.
    method = fit or ("none" if weights is None or stored_repairs(pruned) else "least-squares")
    asked = fitting(method, examples=fit_examples, memory_gb=fit_memory, ridge=ridge, seed=seed)
    require_directory(output, "plan.json")
    teaches = taught(distill, weights)
    dense = load_model(model, weights, trust_pickle=trust_pickle) if teaches or weights else None
    with progress_bar() as progress:
        result = repair_saved(
            pruned,
            load_factory(model),
            load_data(data, again=epochs > 0 or asked.method != "none"),
            output,
            teacher=dense if teaches else None,
            test=load_data(evaluate, again=True) if evaluate else None,
            options={"epochs": epochs, "lr": lr, "optimizer": optimizer, "seed": seed},
            progress=progress,
            fit=None if asked.method == "none" else asked,
            dense=dense if weights else None,
        )
    before, after = result["accuracy_before"], result["accuracy_after"]
    accuracy = "" if after is None else f"; accuracy {100 * before:.2f} % before, {100 * after:.2f} % after"
    emit(result, json, lambda: say(f"repaired model in {output}{accuracy}"))
