"""The device as it is now: what may change while it measures, and whether it can run the bundle."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

_PROCESSORS = Path("/sys/devices/system/cpu")
_THERMAL = Path("/sys/class/thermal")
_HWMON = Path("/sys/class/hwmon")


def conditions(cores: list[int]) -> dict[str, Any]:
    """Clock, governors and frequencies of some cores, temperatures and load.

    What the system does not tell is empty. Frequencies in MHz, temperatures in degrees Celsius.
    """
    frequencies: dict[str, float] = {}
    governors: dict[str, str] = {}
    for core in cores:
        folder = _PROCESSORS / f"cpu{core}" / "cpufreq"
        khz, governor = _line(folder / "scaling_cur_freq"), _line(folder / "scaling_governor")
        if khz.isdigit():
            frequencies[str(core)] = int(khz) / 1000
        if governor:
            governors[str(core)] = governor
    return {
        "at": utc_now(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
        "frequency_mhz": frequencies or _listed_frequencies(cores),
        "governor": governors,
        "temperature_c": _temperatures(),
        "throttled": _throttled(cores),
    }


def utc_now() -> str:
    """Now, in UTC, to the second (ISO 8601)."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


def unfit(needs: dict[str, Any], flags: set[str], cores: int) -> str | None:
    """Why this machine cannot run a bundle, if it cannot."""
    here = platform.machine().lower()
    here = {"amd64": "x86_64", "arm64": "aarch64"}.get(here, here)
    if here != needs["architecture"]:
        return f"this bundle is for {needs['architecture']}, this machine is {here}"
    missing = sorted(set(needs["flags"]) - flags)
    if missing:
        return f"this bundle's kernels need {', '.join(missing)}, which this processor lacks"
    if cores < int(needs["threads"]):
        return f"this bundle's kernels use {needs['threads']} threads, this process may use {cores} cores"
    return None


def _listed_frequencies(cores: list[int]) -> dict[str, float]:
    """From ``/proc/cpuinfo``, which virtual machines have, too."""
    found: dict[str, float] = {}
    number = ""
    for line in _text_or_nothing(Path("/proc/cpuinfo")).splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "processor":
            number = value
        elif key == "cpu MHz" and number.isdigit() and int(number) in cores:
            found[number] = float(value)
    return found


def _temperatures() -> dict[str, float]:
    found: dict[str, float] = {}
    for zone in sorted(_THERMAL.glob("thermal_zone*")):
        value = _line(zone / "temp")
        if value.lstrip("-").isdigit():
            found[f"{zone.name}:{_line(zone / 'type')}"] = int(value) / 1000
    for sensor in sorted(_HWMON.glob("hwmon*/temp*_input")):
        value = _line(sensor)
        if value.lstrip("-").isdigit():
            found[f"{_line(sensor.parent / 'name')}:{sensor.name}"] = int(value) / 1000
    return found


def _throttled(cores: list[int]) -> dict[str, int]:
    """Times that a core was slowed down because of heat, since boot (x86)."""
    found: dict[str, int] = {}
    for core in cores:
        value = _line(_PROCESSORS / f"cpu{core}" / "thermal_throttle" / "core_throttle_count")
        if value.isdigit():
            found[str(core)] = int(value)
    return found


def _line(path: Path) -> str:
    return _text_or_nothing(path).strip()


def _text_or_nothing(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
