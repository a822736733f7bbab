"""The command line: verbs only; the work is done elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from hwprune.cli import analysis, carry, delivery, planning, profiling, tables, training
from hwprune.cli.common import complain
from hwprune.errors import HwpruneError, TargetError, UsageError

#: What typer exits with when the user presses Ctrl-C.
_INTERRUPTED = 130

app = typer.Typer(
    name="hwprune",
    help="Prunes trained PyTorch models by measured latency and compiles them with TVM.",
    epilog="Exit codes: 0 done, 1 the job failed or was interrupted, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
analysis.register(app)
profiling.register(app)
planning.register(app)
training.register(app)
delivery.register(app)
tables.register(app)
carry.register(app)


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every stage on stderr.")] = False,
) -> None:
    """Prunes trained PyTorch models by measured latency and compiles them with TVM."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr
    )


def main() -> None:
    """Exit codes: 0 done, 1 the job failed or was interrupted, 2 wrong usage."""
    try:
        app(prog_name="hwprune")
    except HwpruneError as error:
        complain(f"error: {error}")
        sys.exit(2 if isinstance(error, UsageError | TargetError) else 1)
    except SystemExit as stop:
        if stop.code != _INTERRUPTED:
            raise
        complain("interrupted; what was finished is kept, and the same command goes on from there")
        sys.exit(1)
