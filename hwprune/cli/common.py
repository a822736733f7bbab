"""What all verbs share: options, output, progress, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hwprune.target import Target, load_target

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Model = Annotated[str, typer.Argument(help="package.module:factory or file.py:factory", show_default=False)]
Inputs = Annotated[
    list[str], typer.Option("--input", "-i", help="Shape of an example input, e.g. 1x3x224x224 (repeatable).")
]
Weights = Annotated[Path | None, typer.Option(help="State dict: .safetensors, or .pt without pickle.")]
TrustPickle = Annotated[bool, typer.Option("--trust-pickle", help="Allow weights files that can run code.")]
TargetName = Annotated[str, typer.Option("--target", "-t", help="Target name, or path of a .toml file.")]
Threads = Annotated[int | None, typer.Option(help="Threads of the compiled module (default: the target's).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Include = Annotated[list[str] | None, typer.Option(help="Only groups whose name matches (repeatable).")]
Exclude = Annotated[list[str] | None, typer.Option(help="No group whose name matches (repeatable).")]
Care = Annotated[str, typer.Option("--profile", help="Care of measurements: quick, table or publish.")]
Tables = Annotated[Path | None, typer.Option(help="Directory of latency tables (default: user cache).")]
Search = Annotated[
    bool | None,
    typer.Option(
        "--search/--no-search",
        help="Measure a dozen forms of each kernel first / ignore forms found earlier.",
        show_default=False,
    ),
]
Winograd = Annotated[bool, typer.Option(help="Let a search choose Winograd convolution (error <= 1e-3).")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Data = Annotated[str | None, typer.Option(help="Factory of labelled batches: file.py:loader.")]
PrunedDir = Annotated[Path | None, typer.Option("--pruned", help="Directory written by prune or repair.")]


def emit(data: Mapping[str, Any], as_json: bool, human: Callable[[], None]) -> None:
    """Data on stdout: one JSON object, or text for people."""
    if as_json:
        sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")
    else:
        human()


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout; numbers to the right."""
    table = Table(title=title, title_justify="left", show_edge=False)
    for position, name in enumerate(header):
        number = bool(rows) and isinstance(rows[0][position], int | float)
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row])
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
            stage = what.split(" ", 1)[0]
            if stage not in seen or (total and done == total):
                seen.add(stage)
                err.print(f"{what}" + (f" ({done}/{total})" if total > 1 else ""), markup=False)

        yield plain
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)

        def fancy(what: str, done: int, total: int) -> None:
            bar.update(task, description=what[:60].ljust(60), completed=done, total=total or None)

        yield fancy
