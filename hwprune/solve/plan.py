"""The plan: what is kept of every group, why, and what it was proven to be worth.

A plan is a file that people read and may edit: kept units are ranges (``0-3,7,9-12``). An edited
plan still loads, says so, and must be verified and priced again by whoever uses it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, PrivateAttr, ValidationError, model_validator

from hwprune.artifact import load_json, write_json
from hwprune.errors import PlanError
from hwprune.solve.plan_group import LedgerLine, PlanGroup, Strict

if TYPE_CHECKING:
    from torch import nn

KIND = "hwprune.plan"
VERSION = 1

#: Column titles of :meth:`Plan.summary_rows`.
SUMMARY_HEADER = ("group", "units", "kept", "share", "importance", "alignment")


class Plan(Strict):
    """A choice of channels for one model on one target.

    Attributes
    ----------
    model, fingerprint
        Name of the model, and :func:`model_fingerprint` of it.
    target, pipeline
        Name of the target, and hash of its compile pipeline.
    table, table_digest
        Directory name and digest of the latency table that priced the plan.
    budget_ns, budget_asked
        The budget, and how it was written (``"50%"``).
    dense_ns, predicted_ns, residual_ns
        Latency of the dense model, predicted latency of this plan, and the part of both that is
        not in any kernel. All latencies are in ``unit``, whatever their name says.
    value, bound, gap
        Importance kept, the proven upper bound for any plan, and their relative distance.
    provenance
        Whether those latencies are measured, emulated, simulated or estimated.
    ledger
        What cannot be pruned.
    submodule
        Module path of the part of the model that is planned for, None for all of it.
    inside_heads, prune_outputs
        What the analysis was asked for, which decides on the groups.
    """

    model: str
    fingerprint: str
    target: str
    pipeline: str
    table: str
    table_digest: str
    criterion: str
    solver: str
    seed: int
    budget_ns: float
    budget_asked: str
    dense_ns: float
    predicted_ns: float
    residual_ns: float
    value: float
    bound: float
    gap: float
    solve_seconds: float
    unit: Literal["ns", "instructions", "cycles"] = "ns"
    provenance: Literal["measured", "emulated", "simulated", "estimated"] = "measured"
    groups: tuple[PlanGroup, ...]
    ledger: tuple[LedgerLine, ...] = ()
    submodule: str | None = None
    inside_heads: tuple[str, ...] = ()
    prune_outputs: bool = False
    _edited: bool = PrivateAttr(default=False)

    @property
    def edited(self) -> bool:
        """Whether the file was changed by hand; its predictions then need checking."""
        return self._edited

    @property
    def keep(self) -> dict[str, tuple[int, ...]]:
        """Kept units per group."""
        return {g.name: g.kept_units for g in self.groups}

    @property
    def widths(self) -> dict[str, int]:
        """Number of kept units per group."""
        return {g.name: g.width for g in self.groups}

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON.

        Raises
        ------
        ArtifactError
            The file cannot be written.
        """
        write_json(path, KIND, VERSION, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan; one that was edited by hand loads with :attr:`edited` set.

        Raises
        ------
        ArtifactError
            Missing, truncated, or not a plan of this version.
        PlanError
            A field is unknown, missing, malformed or contradicts another.
        """
        loaded = load_json(path, KIND, VERSION)
        try:
            plan = cls.model_validate(loaded.payload)
        except ValidationError as error:
            raise PlanError(
                f"plan {path}: {_describe(error)}", hint="correct the field, or plan again"
            ) from error
        except PlanError as error:
            raise PlanError(f"plan {path}: {error.message}", hint=error.hint) from error
        plan._edited = loaded.edited
        return plan

    def check(self, dependencies_sizes: Mapping[str, int], fingerprint: str) -> None:
        """Refuse to be applied to another model than the one that was planned for.

        Parameters
        ----------
        dependencies_sizes
            Dense units per group, as the dependency analysis of the model finds them.
        fingerprint
            :func:`model_fingerprint` of the model.

        Raises
        ------
        PlanError
            Naming the groups that are missing, unknown or of another size.
        """
        planned = {g.name: g.size for g in self.groups}
        wrong = [
            f"group '{name}' has {dependencies_sizes[name]} units, the plan says {size}"
            for name, size in planned.items()
            if name in dependencies_sizes and dependencies_sizes[name] != size
        ]
        wrong += [f"the model has no group '{n}'" for n in planned if n not in dependencies_sizes]
        wrong += [f"the plan does not mention group '{n}'" for n in dependencies_sizes if n not in planned]
        if not wrong and fingerprint != self.fingerprint:
            digests = f"fingerprint {fingerprint[:12]}, the plan says {self.fingerprint[:12]}"
            wrong = [f"names or shapes of its parameters differ ({digests})"]
        if wrong:
            more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
            raise PlanError(
                f"this plan was made for another model ('{self.model}'): {'; '.join(wrong[:4])}{more}",
                hint="load the model the plan was made for, with the same include and exclude patterns, "
                "or make a new plan for this one",
            )

    def summary_rows(self) -> list[tuple[str, ...]]:
        """One row of text per group, with the columns of :data:`SUMMARY_HEADER`."""
        return [
            (
                g.name,
                str(g.size),
                str(g.width),
                f"{g.width / g.size:.0%}",
                f"{g.importance_kept:.0%}",
                f"x{g.multiple}" if g.aligned else g.exempt or f"not a multiple of {g.multiple}",
            )
            for g in self.groups
        ]

    @model_validator(mode="after")
    def _distinct(self) -> Plan:
        names = [g.name for g in self.groups]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise PlanError(f"group '{twice[0]}' is listed twice", hint="keep one of the two entries")
        return self


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 over names and shapes of all parameters, sorted by name; values do not count.

    A parameter that is used under several names counts under each of them, so the result depends
    on the structure only.
    """
    named = sorted((n, list(p.shape)) for n, p in model.named_parameters(remove_duplicate=False))
    return hashlib.sha256(json.dumps(named, separators=(",", ":")).encode()).hexdigest()


def _describe(error: ValidationError) -> str:
    lines: list[str] = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown field '{where}'{_nearest(problem['loc'])}")
        else:
            lines.append(f"'{where}': {problem['msg'].lower()}")
    return "; ".join(lines[:4])


def _nearest(place: tuple[int | str, ...]) -> str:
    parts: dict[str, type[BaseModel]] = {"groups": PlanGroup, "ledger": LedgerLine}
    *outer, field = [str(part) for part in place]
    model = parts.get(outer[0], Plan) if outer else Plan
    near = difflib.get_close_matches(field, list(model.model_fields), n=1, cutoff=0.4)
    return f" (nearest valid: '{near[0]}')" if near else ""
