"""What the planning loop knows of a network: its kernels, whole and without some of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from hwprune.latency.predict import LatencyModel
from hwprune.latency.program import Program
from hwprune.planner.worth import Side
from hwprune.solve.problem import Problem

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Removable:
    """A residual block that a plan may leave out.

    ``groups`` lie in it, ``families`` are the names of the kernel families that go with it; nothing
    else changes.
    """

    name: str
    groups: tuple[str, ...]
    families: frozenset[str]


class Network(Protocol):
    """A network whose widths, and perhaps blocks, are to be chosen."""

    @property
    def model(self) -> LatencyModel:
        """Kernel families of the whole network over the widths that may be chosen."""
        ...

    @property
    def dense(self) -> Mapping[str, int]:
        """Full size of every group."""
        ...

    @property
    def removable(self) -> tuple[Removable, ...]:
        """Blocks that may be left out."""
        ...

    def without(self, removed: frozenset[str]) -> LatencyModel:
        """Kernel families that are left when blocks are gone."""
        ...

    def program_at(self, widths: Mapping[str, int], removed: frozenset[str] = NOTHING) -> Program:
        """The network for timing."""
        ...


@dataclass(frozen=True)
class Column:
    """One column of costs: a network at one input resolution (height, width; None: as its inputs are).

    ``shape`` takes the place of the loop's own where limits depend on the resolution.
    """

    network: Network
    resolution: Side | None = None
    shape: Callable[[Problem], Problem] | None = None
