"""The optimisation problem: widths of groups and blocks that stay, under limits on latency and more."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from hwprune.errors import PlanError


@dataclass(frozen=True)
class Domain:
    """The widths a group may take, ascending, and the importance kept at each.

    ``widths`` are numbers of kept units; alignment, minimum widths and protection are already
    in them. ``values[i]`` is the importance kept at ``widths[i]`` (nondecreasing where scores say
    it; measured curves may not be). A group that lies in a removable block (``block``) goes with
    it and is then worth nothing.
    """

    group: str
    widths: tuple[int, ...]
    values: tuple[float, ...]
    block: str | None = None


@dataclass(frozen=True)
class Block:
    """A residual branch that may be left out; ``value`` is what it is worth besides its groups."""

    name: str
    value: float = 0.0


@dataclass(frozen=True)
class Concat:
    """Channels of several groups side by side, of which only the total matters to a kernel.

    ``channels`` are those per kept unit of each group; a group may occur more than once.
    """

    name: str
    groups: tuple[str, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Term:
    """Latency (or bytes) of one or several kernels as a function of widths.

    ``axes`` are names of groups and concatenations. ``cost_ns`` has one axis for each, in order,
    indexed like the domain's ``widths`` or like :meth:`Problem.levels` of a concatenation. A term
    of a removable block (``block``) costs nothing where the block is gone; one that reads a group
    of a block must be a term of that block.
    """

    name: str
    axes: tuple[str, ...]
    cost_ns: np.ndarray
    block: str | None = None


@dataclass(frozen=True)
class Limit:
    """A quantity that adds up: ``fixed`` plus the sum of ``terms``, at most ``at_most``.

    One per target whose latency counts, and others for parameters and for the memory that is in
    use at each step of the network.
    """

    name: str
    terms: tuple[Term, ...]
    fixed: float
    at_most: float = math.inf
    unit: str = "ns"


@dataclass(frozen=True)
class Choice:
    """The width of every group (0 where it went with its block), and the blocks that are gone."""

    widths: Mapping[str, int]
    removed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Problem:
    """Keep the most importance within all limits, or, with ``minimise``, use least of one limit.

    Parameters
    ----------
    domains, blocks, concats
        What may be chosen.
    limits
        The first is the latency that plans are named by.
    constant_value
        Importance that is kept in any case.
    minimise
        Name of the limit whose quantity is to be least; the importance must then be at least
        ``floor``. None: the importance is to be greatest.
    floor
        Least importance kept.
    """

    domains: tuple[Domain, ...]
    limits: tuple[Limit, ...]
    blocks: tuple[Block, ...] = ()
    concats: tuple[Concat, ...] = ()
    constant_value: float = 0.0
    minimise: str | None = None
    floor: float = -math.inf
    _index: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {d.group: i for i, d in enumerate(self.domains)})

    @property
    def dense(self) -> Choice:
        """Everything at its largest width."""
        return Choice({d.group: d.widths[-1] for d in self.domains})

    def domain(self, group: str) -> Domain:
        """Domain of a group; a group without one raises ``PlanError``."""
        if group not in self._index:
            raise PlanError(f"there is no domain for group {group!r}", hint="add its domain")
        return self.domains[self._index[group]]

    def limit(self, name: str) -> Limit:
        """A limit by name; an unknown one raises ``PlanError``."""
        for limit in self.limits:
            if limit.name == name:
                return limit
        known = ", ".join(limit.name for limit in self.limits)
        raise PlanError(f"there is no limit {name!r}", hint=f"the limits are {known}")

    def limited(self, at_most: float, name: str | None = None) -> Problem:
        """The same problem with another limit; without a name that of the first, the latency."""
        which = self.limits[0] if name is None else self.limit(name)
        limits = tuple(replace(limit, at_most=at_most) if limit is which else limit for limit in self.limits)
        return replace(self, limits=limits)

    @cached_property
    def all_levels(self) -> Mapping[str, tuple[int, ...]]:
        """For every group its widths, for every concatenation the totals that it can reach, ascending."""
        found: dict[str, tuple[int, ...]] = {d.group: d.widths for d in self.domains}
        for concat in self.concats:
            totals = {0}
            per_unit: dict[str, int] = {}
            for group, channels in zip(concat.groups, concat.channels, strict=True):
                per_unit[group] = per_unit.get(group, 0) + channels
            for group, channels in per_unit.items():
                widths = self.domain(group).widths
                totals = {t + channels * w for t, w in itertools.product(totals, widths)}
            found[concat.name] = tuple(sorted(totals))
        return found

    def usage(self, limit: Limit, choice: Choice) -> float:
        """What a choice uses of a limit, by the problem's own terms."""
        present = (t for t in limit.terms if t.block is None or t.block not in choice.removed)
        return limit.fixed + math.fsum(self.cost(term, choice) for term in present)

    def cost(self, term: Term, choice: Choice) -> float:
        """What a term costs while its block is there."""
        where = tuple(self.level_index(axis, choice) for axis in term.axes)
        return float(term.cost_ns[where])

    def level_index(self, axis: str, choice: Choice) -> int:
        """Where along an axis of a cost a choice is."""
        return self.all_levels[axis].index(self._level(axis, choice))

    def value(self, choice: Choice) -> float:
        """Importance kept by a choice."""
        kept = [
            d.values[d.widths.index(choice.widths[d.group])]
            for d in self.domains
            if d.block is None or d.block not in choice.removed
        ]
        blocks = (b.value for b in self.blocks if b.name not in choice.removed)
        return self.constant_value + math.fsum([*kept, *blocks])

    def keeps(self, choice: Choice) -> bool:
        """Whether a choice is within all limits, and keeps enough."""
        within = all(self.usage(limit, choice) <= limit.at_most for limit in self.limits)
        return within and self.value(choice) >= self.floor

    def objective(self, choice: Choice) -> float:
        """What is to be greatest: the importance, or minus what is used of the limit to be least."""
        if self.minimise is None:
            return self.value(choice)
        return -self.usage(self.limit(self.minimise), choice)

    def _level(self, axis: str, choice: Choice) -> int:
        if axis in choice.widths:
            return choice.widths[axis]
        concat = next(c for c in self.concats if c.name == axis)
        return sum(n * choice.widths[g] for g, n in zip(concat.groups, concat.channels, strict=True))


@dataclass(frozen=True)
class Solution:
    """A choice within all limits, with its proof.

    Attributes
    ----------
    choice
        What is kept.
    value
        Importance kept.
    usage
        What is used of each limit, by name.
    objective, bound, gap
        What was to be greatest (see :meth:`Problem.objective`), the proven upper bound on it, and
        ``(bound - objective) / max(|bound|, tiny)``.
    seconds, solver
        Time it took, and by whom it was found.
    """

    choice: Choice
    value: float
    usage: Mapping[str, float]
    objective: float
    bound: float
    gap: float
    seconds: float
    solver: str

    @staticmethod
    def of(problem: Problem, choice: Choice, *, bound: float, seconds: float, solver: str) -> Solution:
        """Priced by the problem itself; ``bound`` on the objective is raised to what was reached."""
        objective = problem.objective(choice)
        bound = max(bound, objective)
        return Solution(
            choice=choice,
            value=problem.value(choice),
            usage={limit.name: problem.usage(limit, choice) for limit in problem.limits},
            objective=objective,
            bound=bound,
            gap=(bound - objective) / max(abs(bound), 1e-12),
            seconds=seconds,
            solver=solver,
        )

    @property
    def widths(self) -> Mapping[str, int]:
        """Kept units per group."""
        return self.choice.widths

    @property
    def removed(self) -> frozenset[str]:
        """Blocks that are gone."""
        return self.choice.removed

    @property
    def latency_ns(self) -> float:
        """What is used of the first limit."""
        return next(iter(self.usage.values()))
