"""The plan: what is kept of every group, why, and what it was proven to be worth.

A plan is a file that people read and may edit: kept units are ranges (``0-3,7,9-12``). An edited
plan still loads, says so, and must be verified and priced again by whoever uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from hwprune.errors import PlanError
from hwprune.solve.plan_file import describe, read_plan, write_plan
from hwprune.solve.plan_fit import misfits
from hwprune.solve.plan_group import PlanGroup
from hwprune.solve.plan_parts import (
    FleetLine,
    LedgerLine,
    LimitLine,
    Objective,
    Provenance,
    Rechecked,
    RemovedBlock,
    Strict,
    Unit,
)

if TYPE_CHECKING:
    from hwprune.dependency.blocks import Block

#: Column titles of :meth:`Plan.summary_rows`.
SUMMARY_HEADER = ("group", "units", "kept", "share", "importance", "alignment")

#: A prediction may lie outside its own interval by rounding only.
_ROUNDING = 1e-9


class Plan(Strict):
    """A choice of channels and blocks for one model on one target.

    Attributes
    ----------
    model, fingerprint
        Name of the model, and :func:`~hwprune.solve.fingerprint.model_fingerprint` of it.
    inputs
        Shapes of the inputs that latencies are for; empty where nobody wrote them down.
    resolution
        Height and width of the images that the plan is for; None: those of the inputs as given.
    submodule
        Module path of the part of the model that is planned for, None for all of it.
    include, exclude, inside_heads, prune_outputs
        What the analysis was asked for, which decides on the groups.
    target, pipeline
        Name of the target, and hash of its compile pipeline.
    table, table_digest
        Directory name and digest of the latency table that priced the plan.
    unit, provenance
        What latencies are counted in, whatever their name says, and whether they are measured,
        emulated, simulated or estimated.
    budget_ns, budget_asked
        The budget, and how it was written (``"50%"``).
    dense_ns, predicted_ns, residual_ns
        Latency of the dense model, predicted latency of this plan, and the part of the prediction
        that is not in any kernel.
    low_ns, high_ns
        Where 95 % of networks with this prediction are measured; None where nobody said.
    interpolated
        Share (0..1) of the prediction that is not from kernels that were measured; None: unknown.
    objective
        What the plan is best in.
    value, bound, gap
        Importance kept; the proven bound, for any plan, on what the objective names (from above on
        importance, from below on what is to be least); the relative distance of plan and bound.
    limits, fleet
        What is used beside latency, and what the plan takes on further targets.
    rechecked
        Measured loss of this plan, None where it was not measured.
    judged_after
        Repair of every cut whose held-out loss the plan goes by, such as ``"least_squares"``; None where
        BatchNorm statistics alone were measured again, or where no losses were measured.
    verdict
        What was said beforehand about what pruning can do on this target.
    edited
        Whether it was changed by hand since it was priced: its predictions are then not its own.
    removed_blocks
        Residual blocks that go, with the groups that name them as their ``block``.
    ledger
        What cannot be pruned.
    """

    model: str
    fingerprint: str
    inputs: tuple[tuple[int, ...], ...] = ()
    resolution: tuple[int, int] | None = None
    submodule: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    inside_heads: tuple[str, ...] = ()
    prune_outputs: bool = False
    target: str
    pipeline: str
    table: str
    table_digest: str
    unit: Unit = "ns"
    provenance: Provenance = "measured"
    criterion: str
    objective: Objective = Objective()
    budget_asked: str
    budget_ns: float
    dense_ns: float
    predicted_ns: float
    low_ns: float | None = None
    high_ns: float | None = None
    interpolated: float | None = Field(default=None, ge=0, le=1)
    residual_ns: float
    value: float
    bound: float
    gap: float
    solver: str
    seed: int
    solve_seconds: float
    rechecked: Rechecked | None = None
    judged_after: str | None = None
    verdict: str | None = None
    edited: bool = False
    limits: tuple[LimitLine, ...] = ()
    fleet: tuple[FleetLine, ...] = ()
    removed_blocks: tuple[RemovedBlock, ...] = ()
    groups: tuple[PlanGroup, ...]
    ledger: tuple[LedgerLine, ...] = ()

    @property
    def keep(self) -> dict[str, tuple[int, ...]]:
        """Kept units per group: none of those that go with a block."""
        return {g.name: g.kept_units for g in self.groups}

    @property
    def widths(self) -> dict[str, int]:
        """Number of kept units per group: 0 of those that go with a block."""
        return {g.name: g.width for g in self.groups}

    @property
    def remaining(self) -> dict[str, tuple[int, ...]]:
        """Kept units of the groups that do not go with a block."""
        return {g.name: g.kept_units for g in self.groups if g.block is None}

    @property
    def removed(self) -> tuple[str, ...]:
        """Names of the blocks that go."""
        return tuple(block.name for block in self.removed_blocks)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON; one that was edited stays marked as such.

        Raises
        ------
        ArtifactError
            The file cannot be written.
        """
        write_plan(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan; one that was edited by hand loads with ``edited`` set.

        Raises
        ------
        ArtifactError
            Missing, truncated, or not a plan of a version that is still read.
        PlanError
            A field is unknown, missing, malformed or contradicts another.
        """
        loaded = read_plan(path)
        plan = cls.read(loaded.payload, path)
        return plan.model_copy(update={"edited": True}) if loaded.edited else plan

    @classmethod
    def read(cls, payload: Mapping[str, Any], path: str | Path) -> Plan:
        """A plan from JSON values that were found at ``path``.

        Raises
        ------
        PlanError
            A field is unknown, missing, malformed or contradicts another.
        """
        try:
            return cls.model_validate(payload)
        except ValidationError as error:
            raise PlanError(
                f"plan {path}: {describe(error, cls)}", hint="correct the field, or plan again"
            ) from error
        except PlanError as error:
            raise PlanError(f"plan {path}: {error.message}", hint=error.hint) from error

    def check(
        self,
        dependencies_sizes: Mapping[str, int],
        fingerprint: str,
        blocks: Sequence[Block] | None = None,
    ) -> None:
        """Refuse to be applied to another model than the one that was planned for.

        Parameters
        ----------
        dependencies_sizes
            Dense units per group, as the dependency analysis of the model finds them.
        fingerprint
            :func:`~hwprune.solve.fingerprint.model_fingerprint` of the model.
        blocks
            Its residual blocks; None: the plan's blocks are not looked at.

        Raises
        ------
        PlanError
            Naming the groups and blocks that are missing, unknown or of another size, or, where
            the model is the right one, the blocks that cannot go or whose groups the plan keeps.
        """
        wrong = misfits(self.groups, self.removed, self.fingerprint, dependencies_sizes, fingerprint, blocks)
        wrong.refuse(self.model)

    def summary_rows(self) -> list[tuple[str, ...]]:
        """One row of text per group, with the columns of :data:`SUMMARY_HEADER`."""
        return [
            (
                g.name,
                str(g.size),
                str(g.width),
                f"{g.width / g.size:.0%}",
                f"{g.importance_kept:.0%}",
                _alignment(g),
            )
            for g in self.groups
        ]

    @field_validator("resolution", mode="before")
    @classmethod
    def _square(cls, given: Any) -> Any:
        return (given, given) if isinstance(given, int) and not isinstance(given, bool) else given

    @field_validator("resolution")
    @classmethod
    def _positive(cls, given: tuple[int, int] | None) -> tuple[int, int] | None:
        if given is not None and min(given) < 1:
            raise PlanError(
                f"resolution {given[0]}x{given[1]} is not that of an image",
                hint="write height and width, such as [192, 192]",
            )
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        _distinct("group", [g.name for g in self.groups])
        _distinct("removed block", self.removed)
        _distinct("limit", [limit.name for limit in self.limits])
        for group in self.groups:
            if group.block is not None and group.block not in self.removed:
                raise PlanError(
                    f"group '{group.name}' goes with block '{group.block}', which is not in removed_blocks",
                    hint="list the block there, or keep units of the group and set its block to null",
                )
        if (self.low_ns is None) != (self.high_ns is None):
            raise PlanError("low_ns and high_ns belong together", hint="give both, or neither")
        if self.low_ns is not None and self.high_ns is not None:
            room = _ROUNDING * abs(self.predicted_ns)
            if not self.low_ns - room <= self.predicted_ns <= self.high_ns + room:
                raise PlanError(
                    f"predicted_ns {self.predicted_ns:g} is not between low_ns {self.low_ns:g} and "
                    f"high_ns {self.high_ns:g}",
                    hint="correct them, or price the plan anew with `hwprune plan check --out`",
                )
        return self


def _alignment(group: PlanGroup) -> str:
    if group.block is not None:
        return f"goes with {group.block}"
    return f"x{group.multiple}" if group.aligned else group.exempt or f"not a multiple of {group.multiple}"


def _distinct(what: str, names: Sequence[str]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise PlanError(f"{what} '{twice[0]}' is listed twice", hint="keep one of the two entries")
