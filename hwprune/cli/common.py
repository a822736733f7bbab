"""What all verbs share: options, output, progress, checks of output paths."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from hwprune.errors import ArtifactError
from hwprune.target import Target, load_target

#: Tables that go to a file or a pipe are not squeezed into 80 columns.
_PIPE_COLUMNS = 200
#: A stage that comes again: "round 2: train". Others are known by their first word.
_NUMBERED = re.compile(r"\w+ \d+: \w+")

out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
err = Console(stderr=True, highlight=False)

MODEL_HELP = "Factory of the dense model, takes no arguments: package.module:factory or file.py:factory."
INPUT_HELP = "Shape of an input as it will be deployed, batch first, e.g. 1x3x224x224; once per input."

Model = Annotated[str, typer.Argument(help=MODEL_HELP, show_default=False)]
Inputs = Annotated[
    list[str],
    typer.Option(
        "--input",
        "-i",
        help=INPUT_HELP,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="State dict of the dense model: .safetensors, or a .pt that holds tensors only. "
        "Default: what the factory made."
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option("--trust-pickle", help="Load weights files that can run code. Only for files you made."),
]
TargetName = Annotated[
    str, typer.Option("--target", "-t", help="Device: a name from `hwprune targets`, or a .toml file.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads of the compiled module. Default: what the target says.")
]
Rpc = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="TVM RPC server on the device that things are timed on; several of one kind with commas.",
        show_default=False,
    ),
]
TrackerAddress = Annotated[
    str | None,
    typer.Option(
        "--tracker",
        metavar="HOST:PORT",
        help="TVM RPC tracker; all its devices of the kind --key are used.",
        show_default=False,
    ),
]
DeviceKey = Annotated[
    str | None,
    typer.Option("--key", help="What the devices' servers told the tracker they are.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Include = Annotated[
    list[str] | None, typer.Option(help="Prune only layers that match, e.g. 'layer1.*' (repeatable).")
]
Submodule = Annotated[
    str | None,
    typer.Option(help="Module path of the only part to prune, for models that cannot be exported whole."),
]
InsideHeads = Annotated[
    list[str] | None,
    typer.Option(help="Attention modules in which positions within heads go, not heads (repeatable)."),
]
PruneOutputs = Annotated[
    bool, typer.Option("--prune-outputs", help="Channels of the model's outputs may go, too.")
]
Exclude = Annotated[list[str] | None, typer.Option(help="Prune no layer that matches (repeatable).")]
Care = Annotated[
    str,
    typer.Option(
        "--profile",
        help="Care of measurements. "
        "quick, for busy machines: at least 16 samples and 0.02 s, median's 95 % interval within 3.0%, or "
        "0.06 s; others may use 30% of the cores. "
        "table: at least 30 samples and 0.2 s in 3 passes, median's 95 % interval within 2.0%, or 1.33 s; "
        "others may use 15% of the cores, values compared with PyTorch. "
        "publish, for quiet machines: at least 200 samples and 1 s in 5 passes, median's 95 % interval "
        "within 0.5%, or 20 s; others may use 5% of the cores, values compared with PyTorch.",
    ),
]
Tables = Annotated[
    Path | None,
    typer.Option(help="Directory of latency tables. Default: HWPRUNE_TABLES, or the user's cache."),
]
Minimum = Annotated[float, typer.Option(min=0.0, max=1.0, help="Least share of every group to keep.")]
Search = Annotated[
    bool | None,
    typer.Option(
        "--search/--no-search",
        help="Measure a dozen forms of each kernel and build the fastest; remembered beside the table. "
        "--no-search: ignore forms found earlier.",
        show_default=False,
    ),
]
Tune = Annotated[
    float | None,
    typer.Option(
        metavar="MINUTES",
        help="After the search, let MetaSchedule look for faster loops where kernels stay behind, for "
        "this long; trials are kept, so that it can be done in parts. Needs hwprune[tune].",
        show_default=False,
    ),
]
SearchFirst = Annotated[
    bool, typer.Option("--search", help="Search for the fastest form of each kernel before measuring it.")
]
Winograd = Annotated[
    bool, typer.Option(help="Let a search choose Winograd convolution, which rounds more (up to 1e-3).")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Data = Annotated[str | None, typer.Option(help="Factory of (inputs, labels) batches: file.py:loader.")]
PrunedDir = Annotated[Path | None, typer.Option("--pruned", help="Directory written by prune or repair.")]


def emit(data: Mapping[str, Any], as_json: bool, human: Callable[[], None]) -> None:
    """Data on stdout: one JSON object, or text for people."""
    if as_json:
        sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")
    else:
        human()


def say(text: str) -> None:
    """A line on stdout, as it is: paths are neither wrapped nor read as markup."""
    out.print(text, markup=False, soft_wrap=True)


def complain(text: str) -> None:
    """A line on stderr, as it is."""
    err.print(text, markup=False, soft_wrap=True)


def require_file(path: Path) -> None:
    """Refuse an output file that cannot be written, before the work that would fill it."""
    if path.is_dir():
        raise ArtifactError(f"{path} is a directory, not a file", hint="choose another path with --out")
    _require_parent(path)


def require_directory(path: Path, marker: str) -> None:
    """Refuse an output directory that cannot be written or is not ours to replace.

    ``marker`` is a file that every directory of this kind holds.
    """
    if path.exists() and not path.is_dir():
        raise ArtifactError(f"{path} exists and is not a directory", hint="choose another path with --out")
    if path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise ArtifactError(
            f"{path} holds other files (and no {marker}), so it is not replaced",
            hint="choose another path with --out, or move that directory away",
        )
    _require_parent(path)


def _require_parent(path: Path) -> None:
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ArtifactError(
            f"{path} cannot be written: {parent} is not a directory that can be written to",
            hint="choose another path with --out",
        )


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout; numbers to the right."""
    table = Table(title=title, title_justify="left", show_edge=False)
    for position, name in enumerate(header):
        number = bool(rows) and isinstance(rows[0][position], int | float)
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*[Text(f"{v:.4g}" if isinstance(v, float) else str(v)) for v in row])
    out.print(table)


def resolve_target(name: str, threads: int | None, winograd: bool) -> Target:
    """The target that options name."""
    target = load_target(name, threads=threads)
    return target if winograd else target.model_copy(update={"winograd": False})


@contextmanager
def progress_bar() -> Generator[Callable[[str, int, int], None]]:
    """A progress line on stderr (nothing where stderr is not a terminal but the stage names)."""
    if not err.is_terminal:
        seen: set[str] = set()

        def plain(what: str, done: int, total: int) -> None:
            numbered = _NUMBERED.match(what)
            stage = numbered[0] if numbered else what.split(" ", 1)[0]
            if stage not in seen or (total and done == total):
                seen.add(stage)
                complain(f"{what} ({done}/{total})" if total > 1 else what)

        yield plain
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)

        def fancy(what: str, done: int, total: int) -> None:
            bar.update(task, description=what[:60].ljust(60), completed=done, total=total or None)

        yield fancy
