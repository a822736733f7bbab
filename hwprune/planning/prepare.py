"""From a model to what is needed to plan for it on one target or several."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwprune.dependency import analyse
from hwprune.errors import BudgetMetError, UsageError
from hwprune.importance.registry import Loss
from hwprune.measure.runners.carry import CarriedSite
from hwprune.measure.site import Site
from hwprune.planner.carried import CarriedWorkbench
from hwprune.planner.curves.calibrate import BATCHES
from hwprune.planner.curves.meter import Meter
from hwprune.planner.fleet.budgets import Budgets, budgets_of
from hwprune.planner.goal import Goal, Offer
from hwprune.planner.loop import PlanningLoop
from hwprune.planner.network import Column
from hwprune.planner.options import JOINT, PlanOptions
from hwprune.planner.resolutions import open_columns
from hwprune.planner.workbench import Progress, Workbench, measure_profile, silent
from hwprune.planning.prepared import Prepared, Station
from hwprune.planning.valued import Judges, Valued, Valuer, criteria_of
from hwprune.pruned import Subject
from hwprune.repair.cut_repair import CutRepair
from hwprune.solve.budget import parse_budget
from hwprune.target import Target, load_target

#: One target, or those of a fleet.
Targets = str | Path | Target | Sequence[str | Path | Target]

#: Batches that criteria are given of data that can be read only once.
SCORED = 32
#: Stands for the dense latency until it is measured, to find out whether a budget can be read.
_ANY_LATENCY_NS = 1e300


def prepare(
    model: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    target: Targets,
    data: Iterable[Any] | None,
    *,
    latency: Budgets = None,
    options: PlanOptions | None = None,
    criterion: Judges = None,
    loss: Loss | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    submodule: str | None = None,
    inside_heads: Sequence[str] = (),
    prune_outputs: bool = False,
    threads: int | None = None,
    profile: str = "quick",
    tables: Path | None = None,
    search: bool = False,
    minimum: float = 0.1,
    steps: int = 8,
    checks: int = 3,
    seed: int = 0,
    site: Site | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Capture, analyse and score a model, and open its latency tables; see :func:`hwprune.plan`."""
    options = options or PlanOptions()
    targets = resolve(target, threads)
    # What can be judged by its name alone is, before minutes of measuring.
    judges, care = criteria_of(criterion, options, data=data is not None), measure_profile(profile)
    names = [judge.label for judge in judges]
    check_budgets(latency, targets)
    if len(targets) > 1 and site is not None:
        raise UsageError("a site is given for several targets", hint="plan for them one by one")
    if len(targets) > 1 and (options.resolutions or options.solver == JOINT):
        raise UsageError(
            "a resolution is chosen, and the joint solver searches, for one target",
            hint="plan for the targets one by one",
        )
    if len(targets) > 1 and len(names) > 1:
        raise UsageError("plans by several criteria are compared for one target", hint="name one criterion")
    if submodule is not None and (options.resolutions or options.held_out is not None):
        raise UsageError(
            f"held-out data and resolutions are those of the whole model, not of the submodule {submodule!r}",
            hint="leave them out",
        )
    if submodule is not None and data is not None:
        raise UsageError(
            f"channels of the submodule {submodule!r} cannot be scored with data of the whole model",
            hint="leave data out: the criterion is then lamp, or name one that needs none",
        )
    repair, data = _repair(options, data)
    analysis: dict[str, Any] = {
        "include": tuple(include),
        "exclude": tuple(exclude),
        "submodule": submodule,
        "inside_heads": tuple(inside_heads),
        "prune_outputs": prune_outputs,
    }
    subject = Subject.open(model, example_inputs, **analysis)
    captured, deps = subject.captured, subject.deps
    offer = Offer.of(captured, deps, targets, options, minimum=minimum, steps=steps)
    own_losses = options.held_out is None or options.solver == JOINT
    held_out = None if own_losses else list(itertools.islice(options.held_out or (), BATCHES))
    benches: list[Workbench] = []
    for each in targets:
        bench = Workbench.open(
            captured,
            deps,
            each,
            profile=care,
            tables=tables,
            search=search,
            seed=seed,
            site=site,
            widths=offer.widths,
            progress=progress,
        )
        if isinstance(site, CarriedSite):
            bench, checks = CarriedWorkbench.of(bench), 0
        benches.append(bench)
    first = benches[0]
    columns = _columns(first, options, analysis)
    if len(names) > 1 and isinstance(data, Iterator):
        data = list(itertools.islice(data, SCORED))
    valuer = Valuer(first, columns, options, data, held_out, loss, seed, repair)
    meter = None if held_out is None else Meter(captured, deps, held_out, loss, repair=repair)
    found: list[Prepared] = []
    for judge in judges:
        valued = valuer.by(judge)
        blocks = first.blocks if options.depth else None
        goal = Goal.of(captured, deps, first.fused, offer, options, blocks, valued.all_floors)
        goal = replace(goal, floors_of="" if valued.floors is None else judge.label)
        shaped = tuple(_shaped(column, offer, options, goal) for column in columns)
        stations = tuple(_station(bench, valued, shaped, options) for bench in benches)
        if len(stations) == 1:
            stations[0].loop.shape = goal
        asked = {"criterion": judge.label, "seed": seed, **analysis}
        found.append(
            Prepared(
                subject,
                stations,
                goal,
                options,
                valued.values,
                checks,
                asked,
                meter,
                tuple(names),
                floors=valued.floors,
                harm=valued.least,
            )
        )
    return replace(found[0], others=tuple(found[1:]))


def _repair(
    options: PlanOptions, data: Iterable[Any] | None
) -> tuple[CutRepair | None, Iterable[Any] | None]:
    """What cuts are repaired by before they are judged, and data that still have what it has read."""
    asked = options.repair_asked
    if asked is None:
        return None, data
    if data is None:
        raise UsageError(
            f"cuts are to be judged after the repair {asked.label}, but there are no data for it",
            hint="give data (data=, --data), or leave the repair out",
        )
    if data is options.held_out:
        raise UsageError(
            "data= and held_out= are the same batches: a repair must not be fitted to what judges it",
            hint="keep some labelled batches out of data",
        )
    if not isinstance(data, Iterator):
        return CutRepair(data, asked), data
    data, again = itertools.tee(data)
    return CutRepair(again, asked), data


def resolve(target: Targets, threads: int | None = None) -> tuple[Target, ...]:
    """The targets that are named."""
    each = [target] if isinstance(target, str | Path | Target) else list(target)
    if not each:
        raise UsageError("no target is given", hint="name one, such as host")
    return tuple(t if isinstance(t, Target) else load_target(t, threads=threads) for t in each)


def _columns(bench: Workbench, options: PlanOptions, analysis: dict[str, Any]) -> tuple[Column, ...]:
    """The network at every resolution on offer."""
    if not options.resolutions:
        return ()
    chosen = {name: value for name, value in analysis.items() if name != "submodule"}
    return open_columns(bench, options.resolutions, lambda captured: analyse(captured, **chosen))


def _station(bench: Workbench, valued: Valued, columns: tuple[Column, ...], options: PlanOptions) -> Station:
    loop = PlanningLoop(
        bench,
        valued.worth,
        profile=bench.measure_kernels,
        time_networks=bench.time_networks,
        depth=options.depth,
        columns=columns,
        known=bench.known_table(),
        solve=valued.solve,
        unit=bench.target.unit,
    )
    return Station(bench, loop)


def _shaped(column: Column, offer: Offer, options: PlanOptions, goal: Goal) -> Column:
    """A resolution with its own limits."""
    there = column.network
    assert isinstance(there, Workbench)
    blocks = there.blocks if options.depth else None
    own = Goal.of(there.captured, there.deps, there.fused, offer, options, blocks, goal.least)
    return replace(column, shape=replace(own, floors_of=goal.floors_of))


def check_budgets(latency: Budgets, targets: Sequence[Target]) -> None:
    """Refuse budgets that cannot be read, whatever the dense latency is."""
    asked = budgets_of([target.name for target in targets], latency)
    for target in targets:
        budget = asked[target.name]
        if budget is not None:
            with contextlib.suppress(BudgetMetError):
                parse_budget(budget, _ANY_LATENCY_NS, unit=target.unit)
