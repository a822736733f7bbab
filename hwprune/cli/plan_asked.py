"""What the options of ``hwprune plan`` ask for, and which of them exclude each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwprune.cli.quantities import read_pairs
from hwprune.errors import UsageError

if TYPE_CHECKING:
    from hwprune.planner.options import PlanOptions


def plan_options(
    floor: str | None,
    parameters: str | None,
    memory: str | None,
    limits: Sequence[str],
    weights: Sequence[str],
    *,
    depth: bool = False,
    resolution: str | None = None,
    calibrate: str | None = None,
    calibrate_repair: str | None = None,
    most_harm: float | None = None,
    checkpoint: Path | None = None,
    solver: str = "milp",
    joint: Sequence[str] = (),
    seed: int = 0,
) -> PlanOptions:
    """What the options ask for.

    Raises
    ------
    UsageError, BudgetError
        An option cannot be read.
    """
    from hwprune.modelspec import load_data
    from hwprune.planner.joint.options import JointOptions
    from hwprune.planner.options import PlanOptions

    if joint and solver != "joint":
        raise UsageError("--joint is about a search that nobody asked for", hint="add --solver joint")
    if solver == "joint" and calibrate is None:
        raise UsageError("--solver joint judges networks by held-out data", hint="add --calibrate")
    sides = _sides(resolution)
    if len(sides) > 1 and calibrate is None:
        raise UsageError(
            "--resolution is to be chosen, but nothing says what each of them costs", hint="add --calibrate"
        )
    if calibrate_repair is not None and calibrate is None:
        raise UsageError("--calibrate-repair is about losses that nobody measures", hint="add --calibrate")
    if most_harm is not None and calibrate is None:
        raise UsageError("--most-harm is about a loss that nobody measures", hint="add --calibrate")
    if checkpoint is not None and calibrate is None:
        raise UsageError("--checkpoint keeps losses that nobody measures", hint="add --calibrate")
    ranges = read_pairs(limits, "limit on layers", "--limit 'layer1.*=50%..100%'")
    searched = read_pairs(joint, "option of the joint search", "--joint iterations=800")
    numbers = read_pairs(weights, "weight", "--weight host=2")
    return PlanOptions(
        floor=floor,
        parameters=parameters,
        memory=memory,
        layers=dict(ranges),
        weights={name: _number(name, text) for name, text in numbers.items()},
        depth=depth,
        resolutions=sides,
        held_out=load_data(calibrate) if calibrate else None,
        repair=calibrate_repair,
        most_harm=most_harm,
        checkpoint=checkpoint,
        solver=solver,
        joint=JointOptions.read(searched, seed=seed) if solver == "joint" else None,
    )


def read_budgets(latencies: Sequence[str]) -> str | dict[str, str] | None:
    """One budget for all targets, or one for each by name.

    Raises
    ------
    UsageError
        Both kinds at once, or several for all.
    """
    if not latencies:
        return None
    named = ["=" in text for text in latencies]
    if not any(named):
        if len(latencies) > 1:
            raise UsageError(
                f"there are {len(latencies)} latency budgets",
                hint="name their targets: -l host=50% -l NAME=8ms",
            )
        return latencies[0]
    return read_pairs(latencies, "latency budget of a target", "-l host=50%")


def require_one_target(targets: Sequence[object]) -> None:
    """Refuse options about one device where several targets are planned for.

    Raises
    ------
    UsageError
        There are several.
    """
    if len(targets) > 1:
        raise UsageError(
            "--rpc, --tracker, --key and --device are about one target",
            hint="plan for the targets one by one, or leave these options out",
        )


def _sides(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(side) for side in text.split(",")) if text is not None else ()
    except ValueError:
        raise UsageError(
            f"'{text}' is no list of resolutions", hint="write it as --resolution 224,192,160"
        ) from None


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"weight '{text}' of {name} is not a number", hint="write --weight host=2") from None


def require_apart(
    pareto: int | None,
    plot: Path | None,
    verdict: bool,
    floor: str | None,
    latency: Sequence[str] = (),
    output: Path | None = None,
) -> None:
    """Refuse options that exclude each other, before any work.

    Raises
    ------
    UsageError
        Naming them.
    """
    if plot is not None and pareto is None:
        raise UsageError("--plot draws a frontier", hint="add --pareto 12, or leave --plot out")
    if pareto is not None and verdict:
        raise UsageError("--pareto and --verdict are two questions", hint="ask one at a time")
    if pareto is not None and floor is not None:
        raise UsageError(
            "--pareto shows all floors at once, --floor asks for one", hint="leave one of them out"
        )
    if latency and (pareto is not None or verdict):
        asked = "--pareto shows all latencies" if pareto is not None else "--verdict says what can be saved"
        raise UsageError(f"{asked}, --latency asks for one plan", hint="leave one of them out")
    if verdict and output is not None:
        raise UsageError(
            f"--verdict makes no plan, so nothing would be in {output}",
            hint="leave --out out; --json prints it as data",
        )
