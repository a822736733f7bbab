"""The parts of a plan file beside its groups: blocks, limits, objective, the other devices of a fleet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Unit = Literal["ns", "instructions", "cycles"]
Provenance = Literal["measured", "emulated", "simulated", "estimated"]


class Strict(BaseModel):
    """Frozen; unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RemovedBlock(Strict):
    """A residual block of which only the shortcut is left.

    Attributes
    ----------
    name
        As :func:`hwprune.find_blocks` names it.
    latency_share, importance_share
        Its share (0..1) of the dense model's latency and importance; None where nobody knows.
    """

    name: str = Field(min_length=1)
    latency_share: float | None = None
    importance_share: float | None = None


class LimitLine(Strict):
    """What the plan uses of something besides latency, such as parameters or memory.

    Attributes
    ----------
    name, unit
        ``"parameters"`` in ``"bytes"``.
    used
        What the plan was found to use.
    at_most
        What was allowed; None where it was only counted.
    """

    name: str = Field(min_length=1)
    unit: str
    used: float
    at_most: float | None = None


class FleetLine(Strict):
    """The same plan on a further target. Latencies are in ``unit``, whatever their name says.

    ``budget_ns`` is None for a target that has a ``weight`` in the objective in its place.
    """

    target: str = Field(min_length=1)
    pipeline: str
    table: str
    table_digest: str
    unit: Unit = "ns"
    provenance: Provenance = "measured"
    dense_ns: float
    predicted_ns: float
    budget_ns: float | None = None
    weight: float | None = None


class Objective(Strict):
    """What the plan is best in.

    Attributes
    ----------
    least
        None: it keeps the most importance within its budgets. Else the name of what it uses least
        of, such as ``"latency"``, while it keeps at least ``floor``.
    floor
        Least importance (or greatest loss, by its sign) that was to be kept, in the unit of the
        plan's ``value``.
    asked
        The floor as it was written, such as ``"95%"``.
    """

    least: str | None = None
    floor: float | None = None
    asked: str | None = None


class Rechecked(Strict):
    """The loss of this plan, measured on held-out data before any training; lower is better.

    ``uniform`` is that of one common width at the same latency, ``dense`` that of the whole model;
    ``criteria`` are the losses of the plans by every criterion, where several were tried.
    """

    loss: float
    dense: float
    uniform: float | None = None
    examples: int = Field(ge=1)
    criteria: Mapping[str, float] = Field(default_factory=dict[str, float])


class LedgerLine(Strict):
    """Channels that could not be pruned, and why."""

    name: str
    channels: int
    reason: str
