"""What machine the numbers come from."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hwprune.target import flags_in

_CPU = Path("sys/devices/system/cpu")


@dataclass(frozen=True)
class Device:
    """The measuring machine, as the operating system describes it.

    ``slug`` names the kind of machine (processor, cores, instruction set) and is the same for two
    machines whose tables may be exchanged; what changes from day to day (``governor``,
    ``frequency_mhz``, ``load``) is recorded but not part of it. ``features`` are the processor's
    flags, as the system names them.
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
    features: str = ""

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
    found = describe_files(Path("/"), platform.machine(), len(usable_cores()))
    # Systems without /proc tell this in other ways.
    return replace(found, load=os.getloadavg()) if hasattr(os, "getloadavg") else found


def describe_files(root: Path, architecture: str, cores: int) -> Device:
    """Describe the machine whose ``/proc`` and ``/sys`` lie under ``root``.

    Parameters
    ----------
    architecture
        As ``uname -m`` says it.
    cores
        Cores that measurements may use. The name counts the machine's own, since a kernel on one
        core takes as long whatever else a container may use.
    """
    text = _text(root / "proc/cpuinfo") or ""
    listed = len(re.findall(r"^processor\s*:", text, re.MULTILINE))
    info = _first_processor(text)
    flags = sorted(flags_in(text))
    flags_hash = hashlib.sha256(" ".join(flags).encode()).hexdigest()[:8]
    cpu = info.get("model name") or info.get("Hardware") or architecture
    family = "-".join(info.get(key, "") for key in ("cpu family", "model", "stepping")).strip("-")
    family = family or "-".join(info.get(k, "") for k in ("CPU implementer", "CPU part")).strip("-")
    load = (_text(root / "proc/loadavg") or "").split()[:3]
    one, five, fifteen = [float(value) for value in load] if len(load) == 3 else (0.0, 0.0, 0.0)
    return Device(
        slug=_slug(cpu, family, listed or cores, flags_hash),
        cpu=cpu,
        architecture=architecture,
        family=family,
        cores=cores,
        flags_hash=flags_hash,
        caches=_caches(root / _CPU),
        governor=_text(root / _CPU / "cpu0/cpufreq/scaling_governor"),
        frequency_mhz=_frequency(root / _CPU, info),
        load=(one, five, fifteen),
        virtualised="hypervisor" in flags,
        features=" ".join(flags),
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


def _first_processor(cpuinfo: str) -> dict[str, str]:
    """First processor of a ``/proc/cpuinfo``."""
    pairs = (line.split(":", 1) for line in cpuinfo.split("\n\n", 1)[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _caches(cpu: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for index in sorted((cpu / "cpu0/cache").glob("index*")):
        level, kind, size = (_text(index / name) for name in ("level", "type", "size"))
        if level and size:
            found[f"L{level}{(kind or 'u')[0].lower()}"] = size
    return found


def _frequency(cpu: Path, info: dict[str, str]) -> float | None:
    khz = _text(cpu / "cpu0/cpufreq/cpuinfo_max_freq")
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
