"""The state of the measuring machine, as far as its system tells: clock, heat, throttling, load.

What the system does not tell is ``None``. Nothing is inferred: a virtual machine usually has
neither a governor nor a thermometer, and a fixed clock in its books.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

#: A clock this much below the best one seen in the sweep spoils what was timed.
FREQUENCY_DROP = 0.10
#: Thermal zones and sensors of processors, the best first.
_PROCESSOR_SENSORS = ("x86_pkg_temp", "coretemp", "k10temp", "zenpower", "cpu-thermal", "cpu_thermal", "soc")


@dataclass(frozen=True)
class Conditions:
    """One reading.

    Attributes
    ----------
    at
        UTC, to the second (ISO 8601).
    frequency_mhz
        Clock of every measuring core now, in their order.
    governor
        Frequency governor of the measuring cores; several are joined with commas.
    temperature_c
        Of the processor, in degrees Celsius.
    load
        Average number of runnable processes over the last minute.
    throttled
        Times that the measuring cores and their package were throttled since boot.
    turbo
        Whether the clock may exceed its nominal value.
    """

    at: str
    frequency_mhz: tuple[float | None, ...] = ()
    governor: str | None = None
    temperature_c: float | None = None
    load: float | None = None
    throttled: int | None = None
    turbo: bool | None = None

    @property
    def slowest_mhz(self) -> float | None:
        """Clock of the slowest measuring core, where it is known of all."""
        known = [f for f in self.frequency_mhz if f is not None]
        return min(known) if known and len(known) == len(self.frequency_mhz) else None

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return {**asdict(self), "frequency_mhz": list(self.frequency_mhz)}


def read_conditions(
    cores: Sequence[int], *, system: Path = Path("/sys"), processes: Path = Path("/proc")
) -> Conditions:
    """Read the state of some cores now; ``system`` and ``processes`` are where Linux tells it."""
    cpu = system / "devices/system/cpu"
    policies = [_text(cpu / f"cpu{core}/cpufreq/scaling_governor") for core in cores]
    governors = list(dict.fromkeys(p for p in policies if p))
    load = (_text(processes / "loadavg") or "").split()
    return Conditions(
        at=datetime.now(timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017 - Python 3.8: this travels in carried bundles
        frequency_mhz=_frequencies(cpu, processes, cores),
        governor=",".join(governors) or None,
        temperature_c=_temperature(system / "class"),
        load=_number(load[0]) if load else None,
        throttled=_throttled(cpu, cores),
        turbo=_turbo(cpu),
    )


def spoiled(best_mhz: float | None, before: Conditions | None, after: Conditions | None) -> str | None:
    """What speaks against timings that were taken between two readings, or None.

    Parameters
    ----------
    best_mhz
        Highest clock of the slowest measuring core seen in this sweep, right after work.
    before, after
        The later one read right after work: an idle core lowers its clock.
    """
    if before is None or after is None:
        return None
    if before.throttled is not None and after.throttled is not None and after.throttled > before.throttled:
        return f"the processor was throttled {after.throttled - before.throttled} times"
    if before.governor != after.governor:
        return f"the frequency governor changed from {before.governor} to {after.governor}"
    if before.turbo != after.turbo:
        return f"turbo was switched {'on' if after.turbo else 'off'}"
    now = after.slowest_mhz
    if best_mhz is not None and now is not None and now < (1 - FREQUENCY_DROP) * best_mhz:
        return f"the clock fell from {best_mhz:.0f} to {now:.0f} MHz"
    return None


def _frequencies(cpu: Path, processes: Path, cores: Sequence[int]) -> tuple[float | None, ...]:
    khz = [_number(_text(cpu / f"cpu{core}/cpufreq/scaling_cur_freq")) for core in cores]
    if any(value is not None for value in khz):
        return tuple(None if value is None else value / 1000 for value in khz)
    listed = _listed_frequencies(_text(processes / "cpuinfo") or "")
    return tuple(listed.get(core) for core in cores)


def _listed_frequencies(cpuinfo: str) -> dict[int, float]:
    """MHz by processor number, from the text of ``/proc/cpuinfo``."""
    found: dict[int, float] = {}
    for paragraph in cpuinfo.split("\n\n"):
        number = re.search(r"^processor\s*:\s*(\d+)", paragraph, re.MULTILINE)
        clock = re.search(r"^cpu MHz\s*:\s*([\d.]+)", paragraph, re.MULTILINE)
        if number and clock:
            found[int(number[1])] = float(clock[1])
    return found


def _throttled(cpu: Path, cores: Sequence[int]) -> int | None:
    """Events of the cores, and of their packages: every core tells its package's count."""
    files = ("core_throttle_count", "package_throttle_count")
    counts = [[_number(_text(cpu / f"cpu{c}/thermal_throttle" / name)) for c in cores] for name in files]
    own = [value for value in counts[0] if value is not None]
    package = [value for value in counts[1] if value is not None]
    return int(sum(own) + max(package, default=0)) if own or package else None


def _turbo(cpu: Path) -> bool | None:
    forbidden, boost = _text(cpu / "intel_pstate/no_turbo"), _text(cpu / "cpufreq/boost")
    if forbidden in ("0", "1"):
        return forbidden == "0"
    return boost == "1" if boost in ("0", "1") else None


def _temperature(classes: Path) -> float | None:
    """Of the best processor sensor; where there are several of its kind, of the hottest."""
    found: dict[str, list[float]] = {}
    zones = ((zone / "type", [zone / "temp"]) for zone in _folders(classes / "thermal", "thermal_zone*"))
    chips = ((chip / "name", sorted(chip.glob("temp*_input"))) for chip in _folders(classes / "hwmon", "*"))
    for kind, sensors in (*zones, *chips):
        values = [value for sensor in sensors if (value := _number(_text(sensor))) is not None]
        found.setdefault(_text(kind) or "", []).extend(values)
    for name in _PROCESSOR_SENSORS:
        values = [v for kind, readings in found.items() if kind.startswith(name) for v in readings]
        if values:
            return max(values) / 1000
    return None


def _folders(place: Path, pattern: str) -> Iterable[Path]:
    return sorted(place.glob(pattern))


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
