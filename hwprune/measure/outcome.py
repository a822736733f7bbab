"""What a sweep did, in numbers and sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    time ran out. ``warnings`` are sentences for the user.
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
    build_s: float = 0.0
    check_s: float = 0.0
    time_s: float = 0.0

    def timed(self, row: Row, *, first: bool) -> None:
        """Count a timing; ``first`` unless the kernel is timed again."""
        self.measured += first
        self.failures.pop(row.digest, None)
        self.unmet.pop(row.digest, None)
        if row.note:
            self.unmet[row.digest] = f"{row.label}: {row.note}"

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
