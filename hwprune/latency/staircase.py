"""Where the time of a kernel jumps: the alignment of channel counts that a device shows by itself.

Time over channels is a staircase where kernels work on whole blocks of channels. Between two widths on
offer, of which the larger takes clearly longer, the jump is found by halving; how many widths in
front of the larger one cost as much as it does is the alignment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from hwprune.errors import KernelMissError
from hwprune.latency.kernel import KernelFamily, KernelSpec
from hwprune.latency.predict import LatencyModel
from hwprune.latency.table import LatencyTable

#: A larger width that takes less than this share longer shows no step that could be told from noise.
LEAST_RISE = 0.03
#: A width within this share of the rise from one end belongs to that end.
NEAR = 0.3


@dataclass
class EdgeSearch:
    """Halving between two widths of one group of a kernel family; all other groups stay dense.

    Attributes
    ----------
    low, high
        Widths (units) between which the step lies; :attr:`top` is the larger one it began with.
    verdict
        What was found, once nothing is left to measure: ``step``, ``gradual`` (times in between lie
        in between, however close) or ``flat``.
    """

    family: KernelFamily
    group: str
    low: int
    high: int
    others: Mapping[str, int]
    top: int = field(init=False)
    verdict: str | None = None
    _times: dict[int, float] = field(default_factory=dict[int, float])

    def __post_init__(self) -> None:
        self.top = self.high

    def wanted(self) -> list[KernelSpec]:
        """Kernels to measure next; none when the search has ended."""
        if self.verdict is not None:
            return []
        if not self._times:
            return [self.at(self.low), self.at(self.high)]
        return [self.at((self.low + self.high) // 2)]

    def tell(self, time_of: Callable[[KernelSpec], float]) -> None:
        """Go on with the times of the kernels that were wanted."""
        if not self._times:
            self._times = {width: time_of(self.at(width)) for width in (self.low, self.high)}
            if self.rise < LEAST_RISE:
                self.verdict = "flat"
        else:
            middle = (self.low + self.high) // 2
            time = time_of(self.at(middle))
            least, most = self._times[self.low], self._times[self.high]
            place = (time - least) / (most - least)
            if place >= 1 - NEAR:
                # The time at the top counts for all of its step, or noise would add up.
                self.high, self._times[middle] = middle, most
            else:
                self.low, self._times[middle] = middle, least if place <= NEAR else time
                if self.rise < LEAST_RISE:
                    self.verdict = "gradual"
        if self.verdict is None and self.high - self.low <= 1:
            self.verdict = "gradual" if self.high == self.top else "step"

    @property
    def rise(self) -> float:
        """How much longer the larger of the two widths takes, relative."""
        return self._times[self.high] / self._times[self.low] - 1.0

    @property
    def alignment(self) -> int | None:
        """Widths per step, in units of the group; 1 where time grows gradually, None where it is flat."""
        if self.verdict == "step":
            return self.top - self.high + 1
        return 1 if self.verdict == "gradual" else None

    def at(self, width: int) -> KernelSpec:
        """The kernel with the group at a width."""
        return self.family.at({**self.others, self.group: width})


def edge_searches(model: LatencyModel, keys: Sequence[str]) -> list[EdgeSearch]:
    """One search per shape and free channel count, for the shapes with these keys.

    It begins between neighbouring widths in the upper middle of what is on offer.
    """
    found: list[EdgeSearch] = []
    seen: set[str] = set()
    for family, shape, classes in zip(model.families, model.shapes, model.classes, strict=True):
        if shape.key not in keys or shape.key in seen:
            continue
        seen.add(shape.key)
        for groups in classes:
            widths = model.domains[groups[0]]
            if len(groups) == 1 and len(widths) > 1:
                place = max(1, 2 * len(widths) // 3)
                found.append(EdgeSearch(family, groups[0], widths[place - 1], widths[place], model.dense))
    return found


def find_edges(
    searches: Sequence[EdgeSearch], measure: Callable[[Sequence[KernelSpec]], LatencyTable]
) -> list[EdgeSearch]:
    """Run searches side by side, one kernel of each at a time; those whose kernels fail are left out."""
    going = list(searches)
    while wanted := [spec for search in going for spec in search.wanted()]:
        table = measure(wanted)
        for search in list(going):
            try:
                if search.verdict is None:
                    search.tell(partial(_time, table))
            except KernelMissError:
                going.remove(search)
    return going


def _time(table: LatencyTable, spec: KernelSpec) -> float:
    return table.lookup(spec, untrusted=True).median
