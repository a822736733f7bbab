"""What pruning can do at most for a network on a target, before anything is trained, and why.

Every kernel of the dense network is priced at full and at its smallest width. Where its time
falls much less than its arithmetic, something else takes the time: the same bytes are moved
whatever the width (large inputs that cannot be cut), or a call costs as much as the work. What is
left then is time that no choice of widths removes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hwprune.compile.shapes import infer_shapes, kernel_flops
from hwprune.dependency.groups import Refusal
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.predict import LatencyModel
from hwprune.latency.table import LatencyTable

#: A kernel is flat if its time falls by less than this share of what its arithmetic falls by.
FLAT = 0.5
#: A flat kernel is bound by memory if at its smallest it still moves this share of its bytes.
SAME_BYTES = 0.5
#: Pruning that saves less than this is not worth it.
LITTLE = 0.1
#: Kernels that are named in a sentence.
_NAMED = 3

Kind = Literal["uncut", "memory", "launch", "open"]
_WORDS: dict[Kind, str] = {
    "uncut": "that no width changes",
    "memory": "that hardly get quicker, since they move almost the same bytes with fewer channels",
    "launch": "that hardly get quicker, since calling them costs most of their time",
    "open": "that get quicker with fewer channels",
}


@dataclass(frozen=True)
class KernelVerdict:
    """One kernel of the dense network.

    Attributes
    ----------
    name
        Its layer.
    kind
        ``"uncut"``: no group changes it. ``"memory"``, ``"launch"``: hardly gets quicker. ``"open"``: does.
    dense_ns, least_ns
        Its part of the network's latency at full and at the smallest widths.
    slope
        Share of saved time per share of saved arithmetic: 1 is proportional, 0 flat.
    reason
        Why it cannot be cut, where the ledger says so.
    """

    name: str
    kind: Kind
    dense_ns: float
    least_ns: float
    slope: float
    reason: str | None = None


@dataclass(frozen=True)
class Verdict:
    """Where the dense latency goes, and the least that any plan reaches. Nanoseconds, or ``unit``.

    ``outside_ns`` is what is spent outside of kernels, ``least_ns`` the least latency of any plan.
    """

    target: str
    dense_ns: float
    outside_ns: float
    least_ns: float
    kernels: tuple[KernelVerdict, ...]
    unit: str = "ns"

    @property
    def saving(self) -> float:
        """Greatest share (0..1) of the dense latency that pruning saves."""
        return max(0.0, 1.0 - self.least_ns / self.dense_ns)

    @property
    def helps(self) -> bool:
        """Whether that is worth it."""
        return self.saving >= LITTLE

    @property
    def bound_by(self) -> Literal["launch", "memory", "uncut"] | None:
        """What takes most of the time that pruning cannot save; None where that is little."""
        if self.saving >= 0.5:
            return None
        stuck = {
            "launch": self.outside_ns + self.share_ns("launch"),
            "memory": self.share_ns("memory"),
            "uncut": self.share_ns("uncut"),
        }
        kind = max(("launch", "memory", "uncut"), key=lambda name: stuck[name])
        return kind if stuck[kind] > 0.25 * self.dense_ns else None

    def share_ns(self, kind: Kind) -> float:
        """Time of the dense network in kernels of a kind."""
        return math.fsum(kernel.dense_ns for kernel in self.kernels if kernel.kind == kind)

    def sentences(self) -> tuple[str, ...]:
        """For people: first the answer, then where the time is."""
        first = (
            f"pruning can save at most {self.saving:.0%} of the latency on {self.target}: with everything "
            f"at its smallest {self._time(self.least_ns)} of {self._time(self.dense_ns)} remain"
        )
        if not self.helps:
            first = f"pruning does not help here: {first}"
        found = [first]
        if self.outside_ns > 0.01 * self.dense_ns:
            part = f"{self.outside_ns / self.dense_ns:.0%} ({self._time(self.outside_ns)})"
            found.append(f"{part} of the time is spent outside of kernels, in the runtime and between calls")
        for kind in ("uncut", "memory", "launch", "open"):
            found.extend(self._about(kind))
        return tuple(found)

    @property
    def text(self) -> str:
        """The sentences in one."""
        return "; ".join(self.sentences())

    def _about(self, kind: Kind) -> list[str]:
        those = sorted((k for k in self.kernels if k.kind == kind), key=lambda k: -k.dense_ns)
        total = self.share_ns(kind)
        if total <= 0.005 * self.dense_ns:
            return []
        named = ", ".join(
            f"{k.name} {self._time(k.dense_ns)}" + (f": {k.reason}" if k.reason else "")
            for k in those[:_NAMED]
        )
        more = f" and {len(those) - _NAMED} more" if len(those) > _NAMED else ""
        kernels = "kernel" if len(those) == 1 else "kernels"
        part = f"{total / self.dense_ns:.0%} ({self._time(total)})"
        return [f"{part} is in {len(those)} {kernels} {_WORDS[kind]} ({named}{more})"]

    def _time(self, ns: float) -> str:
        return f"{ns / 1e6:.3g} ms" if self.unit == "ns" else f"{ns:.4g} {self.unit}"


def judge(
    model: LatencyModel,
    table: LatencyTable,
    *,
    target: str,
    dense_ns: float | None = None,
    outside_ns: float = 0.0,
    least_ns: float | None = None,
    ledger: Sequence[Refusal] = (),
    unit: str = "ns",
) -> Verdict:
    """Say what pruning can save at most.

    Parameters
    ----------
    model, table
        The network's kernels over its widths, and their prices.
    target
        Its name.
    dense_ns
        Measured latency of the dense network; None: the sum of its kernels.
    outside_ns
        How much of that is not in kernels.
    least_ns
        Least latency of any plan; None: that of the smallest widths.
    ledger
        What cannot be cut, for the reasons.

    Raises
    ------
    KernelMissError
        The table lacks a kernel at full or smallest width, and does not enclose it.
    """
    prices = model.prices(table)
    smallest = {group: widths[0] for group, widths in model.domains.items()}
    reasons = {line.name: line.reason for line in ledger}
    rows: list[tuple[str, Kind, float, float, float]] = []
    for family, shape in zip(model.families, model.shapes, strict=True):
        full, small = family.at(model.dense), family.at(smallest)
        dense, least = prices.of(full, shape).ns, prices.of(small, shape).ns
        slope = _slope(full, small, dense, least)
        rows.append((family.name, _kind(full, small, slope, bool(family.groups)), dense, least, slope))
    total = math.fsum(row[2] for row in rows)
    whole = total + outside_ns if dense_ns is None else dense_ns
    # What a network's own cache state does to kernels is shared out among them.
    outside = min(max(0.0, outside_ns), whole)
    factor = (whole - outside) / total
    kernels = tuple(
        KernelVerdict(name, kind, factor * dense, factor * least, slope, _reason(name, kind, reasons))
        for name, kind, dense, least, slope in rows
    )
    if least_ns is None:
        least_ns = outside + math.fsum(kernel.least_ns for kernel in kernels)
    return Verdict(target, whole, outside, min(least_ns, whole), kernels, unit)


def _slope(full: KernelSpec, small: KernelSpec, dense: float, least: float) -> float:
    work, left = kernel_flops(full), kernel_flops(small)
    if not work:
        work, left = _bytes(full), _bytes(small)
    saved = 1.0 - left / work
    return (1.0 - least / dense) / saved if saved > 0 else 0.0


def _kind(full: KernelSpec, small: KernelSpec, slope: float, cut: bool) -> Kind:
    if not cut:
        return "uncut"
    if slope >= FLAT:
        return "open"
    return "memory" if _bytes(small) >= SAME_BYTES * _bytes(full) else "launch"


def _bytes(spec: KernelSpec) -> int:
    """Bytes that a kernel must read and write."""
    shapes = [item.shape for item in spec.inputs] + [infer_shapes(spec)[-1]]
    return sum(4 * math.prod(shape) for shape in shapes)


def _reason(name: str, kind: Kind, reasons: dict[str, str]) -> str | None:
    if kind != "uncut":
        return None
    plain = name.partition("#")[0]
    return next(
        (why for layer, why in reasons.items() if layer == plain or plain.startswith(f"{layer}.")), None
    )
