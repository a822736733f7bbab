"""Options of ``hwprune plan`` beside those that other verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Latencies = Annotated[
    list[str] | None,
    typer.Option(
        "--latency",
        "-l",
        help='Budget: a share of the dense model\'s measured latency ("50%") or a time ("8ms"). With '
        "several targets one for all, or one for each: -l host=50% -l NAME=8ms. "
        "Default: 50%, or none with --floor.",
        show_default=False,
    ),
]
TargetNames = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        help="Device: a name from `hwprune targets`, or a .toml file. Repeat it for one plan that suits "
        "several, named after the first. Default: host.",
        show_default=False,
    ),
]
Weight = Annotated[
    list[str] | None,
    typer.Option(
        "--weight",
        metavar="TARGET=NUMBER",
        help="With several targets: --latency is a budget on the weighted mean of their relative "
        "latencies (repeatable, one for each).",
    ),
]
CarriedDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="SLUG",
        help="Plan for a device that cannot be reached, from its table alone (see `hwprune carry`); "
        "nothing is measured, and no plan is checked end to end.",
        show_default=False,
    ),
]
Criterion = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:PARAMETER=VALUE...][,NAME...]",
        help="Importance of channels, see `hwprune inspect --criteria`. With --calibrate also several: "
        "a plan is made by each, and the one of the least held-out loss is taken. "
        "Default: taylor2019 with --data, else lamp.",
        show_default=False,
    ),
]
Checks = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Candidate plans (points of a frontier) to build and time at most; 0 trusts the prediction. "
        "Default: 3, with --pareto 0.",
        show_default=False,
    ),
]
Floor = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE",
        help='Least latency that keeps this share of the importance ("95%"), within --latency if given.',
        show_default=False,
    ),
]
Parameters = Annotated[
    str | None,
    typer.Option(
        metavar="AMOUNT", help='Most parameters: "5M", or "50%" of the dense model\'s.', show_default=False
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="AMOUNT",
        help='Most memory for weights and activations at once: "8MB", "8MiB", or "50%" of what the dense '
        "model needs.",
        show_default=False,
    ),
]
LayerLimit = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="PATTERN=RANGE",
        help="Shares of channels that layers may keep, e.g. 'layer1.*=50%..100%' or 'head=..75%' "
        "(repeatable).",
    ),
]
Depth = Annotated[bool, typer.Option("--depth", help="Residual blocks may be removed, too.")]
Resolutions = Annotated[
    str | None,
    typer.Option(
        "--resolution",
        metavar="SIDES",
        help="Input resolutions to choose from, e.g. 224,192,160 (shorter side); several need --calibrate.",
        show_default=False,
    ),
]
Calibrate = Annotated[
    str | None,
    typer.Option(
        metavar="FACTORY",
        help="Factory of held-out (inputs, labels) batches: file.py:loader. What widths, blocks and "
        "resolutions are worth is then measured by the loss on them, and plans are compared by it.",
        show_default=False,
    ),
]
CalibrateRepair = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD[:OPTION=VALUE...]",
        help="With --calibrate: fit layers of every cut to the dense model's on --data before its loss is "
        "taken, as `hwprune repair --fit` will: least-squares or scales, e.g. least-squares:examples=128. "
        "Takes longer; without it BatchNorm statistics alone are measured again.",
        show_default=False,
    ),
]
MostHarm = Annotated[
    float | None,
    typer.Option(
        metavar="LOSS",
        help="With --calibrate: most that a group, cut alone, may add to that loss; narrower widths are "
        "then not on offer (a floor against starvation).",
        show_default=False,
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="With --calibrate: keep what was measured on held-out data (with --solver joint the state of "
        "its search) in this file; the same command then goes on after an interruption.",
        show_default=False,
    ),
]
Solver = Annotated[
    str,
    typer.Option(
        help="milp, cpsat (needs hwprune[cpsat]), or for comparison greedy, knapsack, uniform, or joint "
        "(searches on a weight-sharing network; needs --data and --calibrate)."
    ),
]
Joint = Annotated[
    list[str] | None,
    typer.Option(
        "--joint",
        metavar="OPTION=VALUE",
        help="With --solver joint: length and steps of its search, e.g. --joint iterations=800 (repeatable).",
    ),
]
OnlyVerdict = Annotated[
    bool,
    typer.Option(
        "--verdict", help="Make no plan: say what pruning can save at most on this target, and why."
    ),
]
Pareto = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="POINTS",
        help="The frontier of importance and latency: --out is then its JSON file, with a plan file per "
        "point in a directory beside it.",
        show_default=False,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(help="With --pareto: draw the frontier as this .svg file.", show_default=False),
]
