"""What tuning has found, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwprune.cli.common import print_table, say

if TYPE_CHECKING:
    from hwprune.measure.tune import TunedKernel, TuneReport


def show_tuning(report: TuneReport) -> None:
    """Which kernels stay behind and why, what was tried, and what came of it."""
    if report.kernels:
        header = ("kernel that stays behind", "at", "tried", "result")
        rows = [(k.label, k.why, _tried(k), _result(k)) for k in report.kernels]
        print_table(f"tuned for {report.seconds:.0f} s", header, rows)
    say(report.summary())


def _tried(kernel: TunedKernel) -> str:
    if not kernel.trials and not kernel.earlier:
        return "nothing"
    earlier = f", {kernel.earlier} earlier" if kernel.earlier else ""
    failed = f", {kernel.failed} failed" if kernel.failed else ""
    return f"{kernel.trials} schedules{earlier}{failed}"


def _result(kernel: TunedKernel) -> str:
    gained = f"{kernel.gain:.2f}x faster" if kernel.gain > 1 else "nothing faster" if kernel.trials else ""
    return "; ".join(part for part in (gained, kernel.note) if part)
