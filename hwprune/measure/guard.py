"""Was the machine quiet while we measured? Two witnesses: the scheduler's books and a sentinel.

The books (``/proc/stat``) say how much of the measuring cores went to others, the sentinel kernel
says whether the same work still takes the same time (frequency, heat, a noisy neighbour in the
cache).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CoreTimes:
    """Clock ticks since boot over a set of cores, and those of our own worker ``pid``."""

    busy: int
    steal: int
    total: int
    own: int
    pid: int | None


@dataclass(frozen=True)
class Disturbance:
    """Shares (0..1) of the measuring cores' time that went elsewhere between two readings."""

    foreign: float
    steal: float

    @property
    def share(self) -> float:
        """Both together."""
        return self.foreign + self.steal

    def __str__(self) -> str:
        return f"other processes {self.foreign:.0%}, hypervisor {self.steal:.0%}"


def parse_stat(text: str, cores: Sequence[int]) -> tuple[int, int, int]:
    """(busy, steal, total) ticks of some cores from the text of ``/proc/stat``.

    ``busy`` leaves out idle, iowait and steal.
    """
    names = {f"cpu{core}" for core in cores}
    busy = steal = total = 0
    for line in text.splitlines():
        name, *values = line.split()
        if name in names:
            # user nice system idle iowait irq softirq steal (guest times are inside user and nice)
            ticks = [int(v) for v in values[:8]] + [0] * (8 - len(values))
            total += sum(ticks)
            steal += ticks[7]
            busy += sum(ticks) - ticks[3] - ticks[4] - ticks[7]
    return busy, steal, total


def read_core_times(cores: Sequence[int], pid: int | None) -> CoreTimes | None:
    """Read the books now; ``None`` where there are none (not Linux)."""
    try:
        busy, steal, total = parse_stat(Path("/proc/stat").read_text(), cores)
    except OSError:
        return None
    return CoreTimes(busy, steal, total, _own_ticks(pid) if pid is not None else 0, pid)


def disturbance(before: CoreTimes | None, after: CoreTimes | None) -> Disturbance:
    """What others took between two readings; zero where nothing is known."""
    if before is None or after is None or after.total <= before.total:
        return Disturbance(0.0, 0.0)
    total = after.total - before.total
    # A tick is 10 ms and the two files are read one after the other: small negatives are noise.
    # A worker that was lost in between took its books with it: then nobody can be blamed.
    known = before.pid == after.pid
    foreign = max(0, (after.busy - before.busy) - (after.own - before.own)) if known else 0
    return Disturbance(foreign / total, max(0, after.steal - before.steal) / total)


def drift(reference: float, now: float) -> float:
    """Relative change of the sentinel; positive is slower."""
    return now / reference - 1.0


def load_warning(cores: int, load: float | None = None) -> str | None:
    """A sentence for the user when the machine is busy before we even start.

    ``load`` is the number of programs that wanted a core lately; None asks this machine.
    """
    if load is None:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < 0.5 * cores:
        return None
    return f"load average is {load:.1f} on {cores} cores: timings will be disturbed; stop other programs"


def _own_ticks(pid: int) -> int:
    """User and system ticks of all threads of a process; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The program's name is in parentheses and may hold spaces: count from behind it.
    fields = text.rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])
