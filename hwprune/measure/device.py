"""What machine the numbers come from."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwprune.target import cpu_flags

_CPU = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Device:
    """The measuring machine, as the operating system describes it.

    ``slug`` names the kind of machine (processor, cores, instruction set) and is the same for two
    machines whose tables may be exchanged; what changes from day to day (``governor``,
    ``frequency_mhz``, ``load``) is recorded but not part of it.
    """

    slug: str
    cpu: str
    architecture: str
    family: str
    cores: int
    flags_hash: str
    caches: dict[str, str]
    governor: str | None
    frequency_mhz: float | None
    load: tuple[float, float, float]
    virtualised: bool

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        data = asdict(self)
        data["load"] = list(self.load)
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Device:
        """Inverse of :meth:`to_dict`."""
        values: dict[str, Any] = {**data, "load": tuple(data["load"])}
        return Device(**values)


def describe_device() -> Device:
    """Describe this machine. What the operating system does not tell is ``None`` or empty."""
    info = _cpuinfo()
    flags = sorted(cpu_flags())
    flags_hash = hashlib.sha256(" ".join(flags).encode()).hexdigest()[:8]
    cpu = info.get("model name") or info.get("Hardware") or platform.processor() or platform.machine()
    family = "-".join(info.get(key, "") for key in ("cpu family", "model", "stepping")).strip("-")
    family = family or "-".join(info.get(k, "") for k in ("CPU implementer", "CPU part")).strip("-")
    cores = len(usable_cores())
    return Device(
        slug=_slug(cpu, family, cores, flags_hash),
        cpu=cpu,
        architecture=platform.machine(),
        family=family,
        cores=cores,
        flags_hash=flags_hash,
        caches=_caches(),
        governor=_text(_CPU / "cpu0/cpufreq/scaling_governor"),
        frequency_mhz=_frequency(info),
        load=os.getloadavg() if hasattr(os, "getloadavg") else (0.0, 0.0, 0.0),
        virtualised="hypervisor" in flags,
    )


def device_slug() -> str:
    """File-name-safe name of this kind of machine."""
    return describe_device().slug


def usable_cores() -> list[int]:
    """Numbers of the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def measuring_cores(threads: int) -> list[int]:
    """The cores kernels are timed on: the last ones, since interrupts prefer the first."""
    return usable_cores()[-threads:]


def _slug(cpu: str, family: str, cores: int, flags_hash: str) -> str:
    words = re.sub(r"\(r\)|\(tm\)|@.*|\bcpu\b|\bprocessor\b", " ", cpu.lower())
    name = re.sub(r"[^a-z0-9]+", "-", words).strip("-") or "cpu"
    parts = [name, re.sub(r"[^a-z0-9]+", "-", family.lower()).strip("-"), f"{cores}c", flags_hash[:6]]
    return "-".join(part for part in parts if part)


def _cpuinfo() -> dict[str, str]:
    """First processor of ``/proc/cpuinfo``."""
    text = _text(Path("/proc/cpuinfo")) or ""
    pairs = (line.split(":", 1) for line in text.split("\n\n", 1)[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _caches() -> dict[str, str]:
    found: dict[str, str] = {}
    for index in sorted((_CPU / "cpu0/cache").glob("index*")):
        level, kind, size = (_text(index / name) for name in ("level", "type", "size"))
        if level and size:
            found[f"L{level}{(kind or 'u')[0].lower()}"] = size
    return found


def _frequency(info: dict[str, str]) -> float | None:
    khz = _text(_CPU / "cpu0/cpufreq/cpuinfo_max_freq")
    if khz and khz.isdigit():
        return int(khz) / 1000
    try:
        return float(info["cpu MHz"])
    except (KeyError, ValueError):
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
