"""The parts of a report: latencies with their intervals, and the rows of its tables."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Where a number comes from; shown beside every latency.
Kind = Literal["measured", "predicted", "emulated", "simulated", "estimated"]

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """Frozen, without surprises: unknown keys, infinities and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Measurement(Strict):
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


class TargetInfo(Strict):
    """The device as the target file describes it."""

    name: str
    description: str = ""
    isa: str
    threads: int = Field(ge=1)


class Accuracy(Strict):
    """Accuracy on ``dataset`` by stage, as fractions (0.978 is 97.8 %); None: not evaluated."""

    dataset: str
    dense: Fraction | None = None
    after_pruning: Fraction | None = None
    after_recalibration: Fraction | None = None
    after_fit: Fraction | None = None
    after_finetuning: Fraction | None = None

    @property
    def stages(self) -> list[tuple[str, float]]:
        """The evaluated stages in their order, with their names for people."""
        every = [
            ("dense", self.dense),
            ("after pruning", self.after_pruning),
            ("after recalibration", self.after_recalibration),
            ("after least squares", self.after_fit),
            ("after fine-tuning", self.after_finetuning),
        ]
        return [(name, value) for name, value in every if value is not None]

    @property
    def final(self) -> float | None:
        """Accuracy of the last evaluated stage after pruning."""
        after = [value for name, value in self.stages if name != "dense"]
        return after[-1] if after else None


class GroupRow(Strict):
    """One channel group: how many channels it had and how many stay.

    ``multiple`` is the alignment of the kept count, ``exempt`` the reason why the group need not
    keep it, ``importance_kept`` the fraction of its importance that stays.
    """

    name: str
    dense: int = Field(ge=1)
    kept: Count
    multiple: int = Field(default=1, ge=1)
    exempt: str | None = None
    importance_kept: Fraction | None = None

    @model_validator(mode="after")
    def _not_grown(self) -> Self:
        if self.kept > self.dense:
            raise ValueError(f"group '{self.name}' keeps {self.kept} of {self.dense} channels")
        return self


class KernelRow(Strict):
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


class Staircase(Strict):
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


class Contender(Strict):
    """One entrant of the interleaved comparison.

    ``ratio`` is its median divided by the pruned module's; exactly 1 marks the pruned module.
    """

    name: str
    median_ms: Positive
    low_ms: Positive
    high_ms: Positive
    ratio: Positive
    kind: Kind = "measured"


class LedgerRow(Strict):
    """Channels that stay, and why."""

    name: str
    channels: Count
    reason: str


class SolverInfo(Strict):
    """How the widths were chosen. ``gap`` (a fraction) and ``bound`` are None without a proof."""

    name: str
    gap: NotNegative | None = None
    bound: float | None = None
    seconds: NotNegative
    variables: Count | None = None
