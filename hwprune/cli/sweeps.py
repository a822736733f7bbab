"""What sweeps did, on the command line: counts, warnings, and the kernels that failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from hwprune.cli.common import complain

if TYPE_CHECKING:
    from hwprune.measure.outcome import ProfileReport

#: Timeouts listed by name; the table's ``note`` column has all.
LISTED = 5


def sweep_data(sweeps: Sequence[ProfileReport]) -> dict[str, Any]:
    """For ``--json``: counts, and the reasons of everything that is not as it should be."""
    from hwprune.measure.outcome import ProfileReport

    if not sweeps:
        return {}
    total = ProfileReport.of_all(sweeps)
    return {
        "sweep": total.summary(),
        "failures": total.failures,
        "unchecked": total.unchecked,
        "unmet": total.unmet,
        "warnings": total.warnings,
    }


def report_sweeps(sweeps: Sequence[ProfileReport]) -> None:
    """Say it on stderr, and exit with 1 if kernels failed: what could be measured is in the table."""
    from hwprune.measure.outcome import ProfileReport

    if not sweeps:
        return
    total = ProfileReport.of_all(sweeps)
    complain(total.sentence())
    for warning in total.warnings:
        complain(f"warning: {warning}")
    for title, reasons in (("timed out", total.unmet), ("values not compared", total.unchecked)):
        for reason in list(reasons.values())[:LISTED]:
            complain(f"{title}: {reason}")
        if len(reasons) > LISTED:
            complain(f"{title}: {len(reasons) - LISTED} more")
    for digest, reason in sorted(total.failures.items(), key=lambda item: item[1]):
        complain(f"FAILED {digest} {reason}")
    if total.failures:
        complain("failed kernels are tried again by the next run; the others are saved")
        raise typer.Exit(1)
