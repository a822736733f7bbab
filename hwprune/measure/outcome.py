"""What a sweep did, in numbers and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hwprune.latency.rows import Row


@dataclass
class ProfileReport:
    """What a sweep did.

    ``skipped`` kernels were in the table already. ``checked`` counts kernels whose values were
    compared with PyTorch's. ``untrusted`` counts earlier rows that this sweep has discredited, too.
    ``failures``, ``unchecked`` and ``unmet`` map the digest of a kernel to its label and the reason:
    why it has no time, why its values could not be compared, and which criterion was not met when
    time ran out. ``done`` holds the digests of the kernels that have a time. ``warnings`` are
    sentences for the user.
    """

    directory: Path
    requested: int
    skipped: int
    measured: int = 0
    checked: int = 0
    untrusted: int = 0
    failures: dict[str, str] = field(default_factory=dict[str, str])
    unchecked: dict[str, str] = field(default_factory=dict[str, str])
    unmet: dict[str, str] = field(default_factory=dict[str, str])
    warnings: list[str] = field(default_factory=list[str])
    done: set[str] = field(default_factory=set[str])
    build_s: float = 0.0
    check_s: float = 0.0
    time_s: float = 0.0

    def timed(self, row: Row, *, first: bool) -> None:
        """Count a timing; ``first`` unless the kernel is timed again."""
        self.measured += first
        self.done.add(row.digest)
        self.failures.pop(row.digest, None)
        self.unmet.pop(row.digest, None)
        if row.note:
            self.unmet[row.digest] = f"{row.label}: {row.note}"

    @staticmethod
    def of_all(reports: Sequence[ProfileReport]) -> ProfileReport:
        """Several sweeps into one table as one; what a later one has mended no longer counts."""
        first, *others = reports
        total = replace(first, failures=dict(first.failures), unmet=dict(first.unmet))
        total.unchecked, total.warnings = dict(first.unchecked), list(first.warnings)
        for one in others:
            total.requested += one.requested
            total.skipped += one.skipped
            total.measured += one.measured
            total.checked += one.checked
            total.untrusted += one.untrusted
            total.build_s += one.build_s
            total.check_s += one.check_s
            total.time_s += one.time_s
            for digest in one.done:
                total.failures.pop(digest, None)
                total.unmet.pop(digest, None)
            total.failures.update(one.failures)
            total.unchecked.update(one.unchecked)
            total.unmet.update(one.unmet)
            total.warnings += one.warnings
        return total

    def summary(self) -> dict[str, Any]:
        """Counts and seconds, for JSON."""
        return {
            "requested": self.requested,
            "skipped": self.skipped,
            "measured": self.measured,
            "checked": self.checked,
            "unchecked": len(self.unchecked),
            "failed": len(self.failures),
            "untrusted": self.untrusted,
            "unmet": len(self.unmet),
            "build_s": round(self.build_s, 3),
            "check_s": round(self.check_s, 3),
            "time_s": round(self.time_s, 3),
        }

    def sentence(self) -> str:
        """Counts for people; what did not happen is left out."""
        parts = [f"{self.measured} measured", f"{self.skipped} known already"]
        parts += [f"{self.checked} compared with PyTorch"] if self.checked else []
        parts += [f"{len(self.unmet)} timed out before their criteria were met"] if self.unmet else []
        parts += [f"{self.untrusted} untrusted"] if self.untrusted else []
        parts += [f"{len(self.failures)} FAILED"] if self.failures else []
        return ", ".join(parts)
