"""What a check of a plan finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwprune.planner.prediction import Prediction
from hwprune.solve.plan import Plan

Level = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``bad`` is what a plan must not be, ``note`` what one should know."""

    about: str
    level: Level
    text: str


@dataclass(frozen=True)
class PlanCheck:
    """What a check found.

    Attributes
    ----------
    findings
        In the order in which they were looked at; a bad one about the model ends the check.
    prediction
        Latency by the present table, None where it does not tell.
    missing
        Labels of kernels that the table lacks.
    error
        Largest difference of the cut model from the masked original, relative to the output's scale;
        None where the cut failed.
    priced
        The plan with this prediction in the place of its own, None without one.
    """

    findings: tuple[Finding, ...]
    prediction: Prediction | None = None
    missing: tuple[str, ...] = ()
    error: float | None = None
    priced: Plan | None = None

    @property
    def good(self) -> bool:
        """Whether nothing bad was found."""
        return all(finding.level != "bad" for finding in self.findings)
