"""Everything the report shows, and nothing else; ``report.json`` is its dump.

Latencies are times. Instruction or cycle counts are another unit and do not fit in here, on purpose:
they must not be drawn on the same axis as milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from hwprune.errors import ReportError
from hwprune.report.rows import (
    Accuracy,
    Contender,
    GroupRow,
    KernelRow,
    Kind,
    LedgerRow,
    Measurement,
    NotNegative,
    Positive,
    SolverInfo,
    Staircase,
    Strict,
    TargetInfo,
)

__all__ = [
    "Accuracy",
    "Contender",
    "GroupRow",
    "KernelRow",
    "Kind",
    "LedgerRow",
    "Measurement",
    "ReportData",
    "SolverInfo",
    "Staircase",
    "TargetInfo",
    "read_report",
]


class ReportData(Strict):
    """The whole report.

    Attributes
    ----------
    budget_ms, budget_asked
        The budget, and the words it was asked in (``"50%"``).
    dense, dense_predicted
        Latency of the model before pruning; the prediction is optional.
    predicted, measured
        Latency of the pruned model; ``measured`` is None before it was benchmarked.
    max_rel_error
        Largest difference of the compiled module from PyTorch, relative to the output's scale.
    provenance
        Shown in this order. ``device`` (else ``cpu``) names the device in the verdict.
    stage_seconds
        Wall-clock time of the stages, in their order.
    """

    format: Literal[1] = 1
    title: str
    created: AwareDatetime
    model: str
    target: TargetInfo
    budget_ms: Positive
    budget_asked: str
    dense: Measurement
    dense_predicted: Measurement | None = None
    predicted: Measurement
    measured: Measurement | None = None
    accuracy: Accuracy | None = None
    max_rel_error: NotNegative | None = None
    groups: tuple[GroupRow, ...] = ()
    kernels: tuple[KernelRow, ...] = ()
    staircases: tuple[Staircase, ...] = ()
    contenders: tuple[Contender, ...] = ()
    ledger: tuple[LedgerRow, ...] = ()
    solver: SolverInfo | None = None
    provenance: dict[str, str] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    stage_seconds: dict[str, NotNegative] = Field(default_factory=dict)

    @property
    def device(self) -> str:
        return self.provenance.get("device") or self.provenance.get("cpu") or self.target.name

    @property
    def shipped(self) -> Measurement:
        """The best known latency of the pruned model: measured, else predicted."""
        return self.measured or self.predicted


def read_report(path: Path) -> ReportData:
    """Read a ``report.json``.

    Raises
    ------
    ReportError
        Missing file, or content that is not a report of this format.
    """
    try:
        return ReportData.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ReportError(
            f"report {path} cannot be read: {error.strerror or error}",
            hint="give a report.json, or the directory of a quickstart",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise ReportError(
            f"report {path} is not valid: {where}: {first['msg'].lower()}",
            hint="write it again with this version of hwprune",
        ) from error
