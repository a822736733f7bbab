"""The parts of a plan file: what is kept of one group, and what could not be pruned."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwprune.errors import PlanError
from hwprune.solve.ranges import format_ranges, parse_ranges


class Strict(BaseModel):
    """Frozen; unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PlanGroup(Strict):
    """What is kept of one group.

    Attributes
    ----------
    size, width
        Units of the dense group, and how many are kept.
    kept
        The kept units as ranges.
    multiple
        Alignment of the channel count (``width * channels_per_unit``) on the target.
    exempt
        Why the kept width is not aligned, or ``None``.
    importance_kept
        Fraction of the group's importance that is kept.
    """

    name: str
    size: int = Field(ge=1)
    kept: str
    width: int = Field(ge=1)
    channels_per_unit: int = Field(1, ge=1)
    multiple: int = Field(1, ge=1)
    exempt: str | None = None
    importance_kept: float

    @classmethod
    def from_units(
        cls,
        name: str,
        size: int,
        units: Iterable[int],
        *,
        importance_kept: float,
        channels_per_unit: int = 1,
        multiple: int = 1,
        exempt: str | None = None,
    ) -> PlanGroup:
        """Make a group from unit numbers in any order."""
        distinct = sorted(set(units))
        return cls(
            name=name,
            size=size,
            kept=format_ranges(distinct),
            width=len(distinct),
            channels_per_unit=channels_per_unit,
            multiple=multiple,
            exempt=exempt,
            importance_kept=importance_kept,
        )

    @property
    def kept_units(self) -> tuple[int, ...]:
        """Numbers of the kept units, ascending."""
        return parse_ranges(self.kept, self.size)

    @property
    def aligned(self) -> bool:
        return self.width * self.channels_per_unit % self.multiple == 0

    @model_validator(mode="after")
    def _consistent(self) -> PlanGroup:
        try:
            units = self.kept_units
        except PlanError as error:
            raise PlanError(f"group '{self.name}': kept: {error.message}", hint=error.hint) from error
        if len(units) != self.width:
            raise PlanError(
                f"group '{self.name}': width is {self.width}, but kept lists {len(units)} units",
                hint=f"set width to {len(units)}, or correct kept",
            )
        return self


class LedgerLine(Strict):
    """Channels that could not be pruned, and why."""

    name: str
    channels: int
    reason: str
