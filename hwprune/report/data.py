"""Everything the report shows, and nothing else; ``report.json`` is its dump.

Latencies are times. Instruction or cycle counts are another unit and do not fit in here, on purpose:
they must not be drawn on the same axis as milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hwprune.errors import ReportError

#: Where a number comes from; shown beside every latency.
Kind = Literal["measured", "predicted", "emulated", "simulated", "estimated"]

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Measurement(_Strict):
    """A latency in milliseconds with the ends of its confidence interval.

    ``low_ms == high_ms == value_ms`` says that there is no interval (a prediction).
    """

    value_ms: Positive
    low_ms: Positive
    high_ms: Positive
    kind: Kind
    unit: Literal["ms"] = "ms"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low_ms <= self.value_ms <= self.high_ms:
            raise ValueError("low_ms <= value_ms <= high_ms does not hold")
        return self

    @property
    def has_interval(self) -> bool:
        return self.low_ms < self.high_ms

    @classmethod
    def exact(cls, value_ms: float, kind: Kind = "predicted") -> Self:
        """A number without an interval."""
        return cls(value_ms=value_ms, low_ms=value_ms, high_ms=value_ms, kind=kind)


class TargetInfo(_Strict):
    """The device as the target file describes it."""

    name: str
    description: str = ""
    isa: str
    threads: int = Field(ge=1)


class Accuracy(_Strict):
    """Accuracy on ``dataset`` by stage, as fractions (0.978 is 97.8 %); None: not evaluated."""

    dataset: str
    dense: Fraction | None = None
    after_pruning: Fraction | None = None
    after_recalibration: Fraction | None = None
    after_finetuning: Fraction | None = None

    @property
    def stages(self) -> list[tuple[str, float]]:
        """The evaluated stages in their order, with their names for people."""
        every = [
            ("dense", self.dense),
            ("after pruning", self.after_pruning),
            ("after recalibration", self.after_recalibration),
            ("after fine-tuning", self.after_finetuning),
        ]
        return [(name, value) for name, value in every if value is not None]

    @property
    def final(self) -> float | None:
        """Accuracy of the last evaluated stage after pruning."""
        after = [value for name, value in self.stages if name != "dense"]
        return after[-1] if after else None


class GroupRow(_Strict):
    """One channel group: how many channels it had and how many stay.

    ``multiple`` is the alignment of the kept count, ``exempt`` the reason why the group need not
    keep it, ``importance_kept`` the fraction of its importance that stays.
    """

    name: str
    dense: int = Field(ge=1)
    kept: Count
    multiple: int = Field(1, ge=1)
    exempt: str | None = None
    importance_kept: Fraction | None = None

    @model_validator(mode="after")
    def _not_grown(self) -> Self:
        if self.kept > self.dense:
            raise ValueError(f"group '{self.name}' keeps {self.kept} of {self.dense} channels")
        return self


class KernelRow(_Strict):
    """One fused kernel in execution order, in microseconds.

    ``pruned_us`` is None where the step is gone (or only the dense network was profiled);
    ``share`` is the kernel's fraction of the dense network's latency.
    """

    name: str
    label: str
    dense_us: NotNegative
    pruned_us: NotNegative | None = None
    share: Fraction
    kind: Kind = "measured"


class Staircase(_Strict):
    """Latency of one layer over the width of one group, other widths as in the dense network.

    ``widths`` ascend; ``low`` and ``high`` are the ends of the interval around ``latency_us``.
    """

    label: str
    group: str
    widths: tuple[int, ...] = Field(min_length=1)
    latency_us: tuple[NotNegative, ...]
    low: tuple[NotNegative, ...]
    high: tuple[NotNegative, ...]
    chosen: Count
    dense: Count
    kind: Kind = "measured"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not len(self.widths) == len(self.latency_us) == len(self.low) == len(self.high):
            raise ValueError(f"staircase '{self.label}': widths, latency_us, low and high differ in length")
        if any(a >= b for a, b in zip(self.widths, self.widths[1:], strict=False)):
            raise ValueError(f"staircase '{self.label}': widths do not ascend")
        return self


class Contender(_Strict):
    """One entrant of the interleaved comparison.

    ``ratio`` is its median divided by the pruned module's; exactly 1 marks the pruned module.
    """

    name: str
    median_ms: Positive
    low_ms: Positive
    high_ms: Positive
    ratio: Positive
    kind: Kind = "measured"


class LedgerRow(_Strict):
    """Channels that stay, and why."""

    name: str
    channels: Count
    reason: str


class SolverInfo(_Strict):
    """How the widths were chosen. ``gap`` (a fraction) and ``bound`` are None without a proof."""

    name: str
    gap: NotNegative | None = None
    bound: float | None = None
    seconds: NotNegative
    variables: Count | None = None


class ReportData(_Strict):
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
        raise ReportError(f"report {path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise ReportError(
            f"report {path} is not valid: {where}: {first['msg'].lower()}",
            hint="write it again with this version of hwprune",
        ) from error
