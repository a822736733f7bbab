"""The command line: verbs only; the work is done elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from hwprune.cli import analysis, delivery, planning
from hwprune.cli.common import err
from hwprune.errors import HwpruneError, TargetError, UsageError

app = typer.Typer(
    name="hwprune",
    help="Prunes trained PyTorch models by measured latency and compiles them with TVM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
analysis.register(app)
planning.register(app)
delivery.register(app)


@app.callback()
def options(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log on stderr.")] = False) -> None:
    """Prunes trained PyTorch models by measured latency and compiles them with TVM."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr
    )


def main() -> None:
    """Exit codes: 0 done, 1 the job failed, 2 wrong usage."""
    try:
        app()
    except HwpruneError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, UsageError | TargetError) else 1)
    except KeyboardInterrupt:
        err.print("interrupted; kernels already measured are kept, and the same command goes on from there")
        sys.exit(1)
