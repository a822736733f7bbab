"""Options of the verbs that train: repair and iterate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from hwprune.cli.quantities import read_pairs
from hwprune.errors import UsageError

if TYPE_CHECKING:
    from hwprune.repair.options import RepairOptions

TrainData = Annotated[
    str,
    typer.Option(
        "--data", help="Factory of (inputs, labels) batches to train on: file.py:loader.", show_default=False
    ),
]
Evaluate = Annotated[
    str | None, typer.Option(metavar="FACTORY", help="Factory of batches to test on.", show_default=False)
]
Lr = Annotated[float, typer.Option(help="Peak learning rate.")]
Optimizer = Annotated[str, typer.Option(help="sgd or adamw.")]
Distill = Annotated[
    bool | None,
    typer.Option(help="Learn from the dense model as well. Default: if its --weights are given."),
]
Fit = Annotated[
    str | None,
    typer.Option(
        help="Fit layers to the dense model's first: least-squares, scales or none. "
        "Default: least-squares if its --weights are given and nothing was fitted or trained since the "
        "cut, else none."
    ),
]
FitRounds = Annotated[
    str,
    typer.Option(
        "--fit",
        help="Fit layers after each cut, before the training behind it, to the model of before that cut: "
        "least-squares, scales or none. It helps most where that training is short.",
    ),
]
FitExamples = Annotated[int, typer.Option(help="Examples that the fit reads at most.")]
FitMemory = Annotated[
    float,
    typer.Option(
        metavar="GB",
        help="Memory for what the fit keeps between two layers. With less than it needs it takes longer.",
    ),
]
Ridge = Annotated[float, typer.Option(help="How much the fit holds on to the weights.")]
More = Annotated[
    list[str] | None,
    typer.Option(
        "--train",
        metavar="OPTION=VALUE",
        help="More about the training after each cut, e.g. --train weight_decay=0 (repeatable).",
        show_default=False,
    ),
]
Final = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OPTION=VALUE",
        help="What is different in the training after the last cut, e.g. --final epochs=10 (repeatable).",
        show_default=False,
    ),
]

#: Options of the training that the command line has options for.
_OWN = ("epochs", "lr", "optimizer", "seed")


def training(texts: Sequence[str]) -> dict[str, str]:
    """What --train says.

    Raises
    ------
    UsageError
        A text is no OPTION=VALUE, or about something that has an option of its own.
    """
    found = read_pairs(texts, "option of the training", "--train weight_decay=0")
    for name in _OWN:
        if name in found:
            raise UsageError(
                f"--train {name}={found[name]} and --{name} are about the same",
                hint=f"write --{name} {found[name]}",
            )
    return found


#: What --fit takes.
FITS = ("least-squares", "scales", "none")


def final_training(texts: Sequence[str]) -> dict[str, str]:
    """What --final says.

    Raises
    ------
    UsageError
        A text is no OPTION=VALUE.
    """
    return read_pairs(texts, "option of the last training", "--final epochs=10")


def fitting(method: str, *, examples: int, memory_gb: float, ridge: float, seed: int) -> RepairOptions:
    """What --fit, --fit-examples, --fit-memory and --ridge say.

    Raises
    ------
    UsageError
        There is no such method, or a number is out of range.
    """
    from hwprune.repair.options import repair_options

    if method.replace("_", "-") not in FITS:
        raise UsageError(f"--fit {method}: there is no such fit", hint=f"use {', '.join(FITS)}")
    known = {"examples": examples, "memory_gb": memory_gb, "ridge": ridge, "seed": seed}
    return repair_options(method=method.replace("-", "_"), **known)


def taught(distill: bool | None, weights: object) -> bool:
    """Whether the dense model teaches; one that nobody has trained would do harm, so it must be asked for."""
    return weights is not None if distill is None else distill
