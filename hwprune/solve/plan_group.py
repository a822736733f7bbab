"""What a plan keeps of one group of channels."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, model_validator

from hwprune.errors import PlanError
from hwprune.solve.plan_parts import Strict
from hwprune.solve.ranges import format_ranges, parse_ranges


class PlanGroup(Strict):
    """What is kept of one group.

    Attributes
    ----------
    size, width
        Units of the dense group, and how many are kept: none of a group that goes with its block.
    kept
        The kept units as ranges.
    importance_kept
        Fraction of the group's importance that is kept.
    channels_per_unit, multiple
        Alignment of the channel count (``width * channels_per_unit``) on the target.
    exempt
        Why the kept width is not aligned, or ``None``.
    block
        The removed block that the group goes with, or ``None``.
    allowed
        Widths (units) that the user allowed, as ranges; ``None``: all.
    floor
        Least width (units) at which the group, cut alone, did no more harm to the held-out loss than
        was allowed (a floor against starvation); ``None`` where none was asked for.
    """

    name: str = Field(min_length=1)
    size: int = Field(ge=1)
    width: int = Field(ge=0)
    kept: str
    importance_kept: float
    channels_per_unit: int = Field(default=1, ge=1)
    multiple: int = Field(default=1, ge=1)
    exempt: str | None = None
    block: str | None = None
    allowed: str | None = None
    floor: int | None = Field(default=None, ge=1)

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
        block: str | None = None,
        allowed: Iterable[int] | None = None,
        floor: int | None = None,
    ) -> PlanGroup:
        """Make a group from unit numbers in any order; none of them for one that goes with ``block``."""
        distinct = sorted(set(units))
        return cls(
            name=name,
            size=size,
            width=len(distinct),
            kept=format_ranges(distinct),
            importance_kept=importance_kept,
            channels_per_unit=channels_per_unit,
            multiple=multiple,
            exempt=exempt,
            block=block,
            allowed=None if allowed is None else format_ranges(allowed),
            floor=floor,
        )

    @property
    def kept_units(self) -> tuple[int, ...]:
        """Numbers of the kept units, ascending."""
        return parse_ranges(self.kept, self.size) if self.kept.strip() else ()

    @property
    def aligned(self) -> bool:
        """Whether the channel count is a multiple of what the target asks for."""
        return self.width * self.channels_per_unit % self.multiple == 0

    @model_validator(mode="after")
    def _consistent(self) -> PlanGroup:
        units = self._parsed(self.kept, self.size, "kept") if self.kept.strip() else ()
        if len(units) != self.width:
            raise PlanError(
                f"group '{self.name}': width is {self.width}, but kept lists {len(units)} units",
                hint=f"set width to {len(units)}, or correct kept",
            )
        if self.block is None and self.width == 0:
            raise PlanError(
                f"group '{self.name}' keeps nothing, and names no removed block that it goes with",
                hint="keep at least one unit, or name its block and list that in removed_blocks",
            )
        if self.block is not None and self.width > 0:
            raise PlanError(
                f"group '{self.name}' goes with block '{self.block}', but keeps {self.width} units",
                hint='set its width to 0 and kept to "", or its block to null',
            )
        if self.width > 0:
            self._within()
        return self

    def _within(self) -> None:
        """A width that the plan itself forbids contradicts it."""
        if self.floor is not None and self.width < self.floor:
            raise PlanError(
                f"group '{self.name}': width {self.width} is below its floor of {self.floor}",
                hint="keep more units, or lower the floor",
            )
        if self.allowed is None:
            return
        if self.width not in self._parsed(self.allowed, self.size + 1, "allowed"):
            raise PlanError(
                f"group '{self.name}': width {self.width} is not among the allowed widths {self.allowed}",
                hint="keep as many units as allowed, or change allowed",
            )

    def _parsed(self, text: str, limit: int, field: str) -> tuple[int, ...]:
        try:
            return parse_ranges(text, limit)
        except PlanError as error:
            raise PlanError(f"group '{self.name}': {field}: {error.message}", hint=error.hint) from error
