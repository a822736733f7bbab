"""What a remote device's system tells, put into the form in which this machine's is read."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hwprune.measure.conditions import Conditions, read_conditions
from hwprune.measure.device import Device, describe_files

_CPU = "/sys/devices/system/cpu"
_STATUS, _MAPS = "/proc/self/status", "/proc/self/maps"
#: More cores, caches and sensors than this are not asked for.
_CORES, _CACHES, _ZONES = 64, 6, 12


def condition_files(cores: Sequence[int]) -> Iterator[str]:
    """Files that tell the state of some cores."""
    yield "/proc/loadavg"
    yield f"{_CPU}/intel_pstate/no_turbo"
    yield f"{_CPU}/cpufreq/boost"
    for core in cores:
        for name in ("cpufreq/scaling_governor", "cpufreq/scaling_cur_freq"):
            yield f"{_CPU}/cpu{core}/{name}"
        for name in ("core_throttle_count", "package_throttle_count"):
            yield f"{_CPU}/cpu{core}/thermal_throttle/{name}"
    for zone in range(_ZONES):
        yield f"/sys/class/thermal/thermal_zone{zone}/type"
        yield f"/sys/class/thermal/thermal_zone{zone}/temp"


def conditions_from(files: Mapping[str, str], cores: Sequence[int]) -> Conditions:
    """The state of some cores from what :func:`condition_files` named."""
    # A core that waits for the next session lowers its clock, unless it was told not to.
    governors = {text.strip() for path, text in files.items() if path.endswith("scaling_governor")}
    steady = governors == {"performance"}
    kept = {path: text for path, text in files.items() if steady or not path.endswith("scaling_cur_freq")}
    with _tree(kept) as root:
        return read_conditions(cores, system=root / "sys", processes=root / "proc")


def description_files() -> Iterator[str]:
    """Files that tell what kind of machine it is."""
    yield from ("/proc/cpuinfo", "/proc/loadavg", _STATUS, _MAPS)
    yield f"{_CPU}/online"
    yield f"{_CPU}/cpu0/cpufreq/scaling_governor"
    for index in range(_CACHES):
        yield from (f"{_CPU}/cpu0/cache/index{index}/{name}" for name in ("level", "type", "size"))
    yield from (f"{_CPU}/cpu{core}/cpufreq/cpuinfo_max_freq" for core in range(_CORES))


def device_from(files: Mapping[str, str], architecture: str) -> Device:
    """The device from what :func:`description_files` named."""
    with _tree(files) as root:
        return describe_files(root, architecture, len(usable_cores(files)))


def usable_cores(files: Mapping[str, str]) -> list[int]:
    """Cores that the device's server may run on; empty if the device does not tell."""
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)", files.get(_STATUS, ""), re.MULTILINE)
    return _numbers(found[1] if found else files.get(f"{_CPU}/online", ""))


def ranked_cores(files: Mapping[str, str]) -> list[int]:
    """Cores that the server may run on, the fastest last, and of equals the one with the highest number."""

    def rank(core: int) -> tuple[int, int]:
        text = files.get(f"{_CPU}/cpu{core}/cpufreq/cpuinfo_max_freq", "").strip()
        return int(text) if text.isdigit() else 0, core

    return sorted(usable_cores(files), key=rank)


def is_emulated(files: Mapping[str, str], architecture: str) -> bool:
    """Whether the server runs under an emulator of user programs, whose own system shines through."""
    name = re.search(r"^Name:\s*(\S+)", files.get(_STATUS, ""), re.MULTILINE)
    listed = files.get("/proc/cpuinfo", "")
    other = "vendor_id" in listed if architecture == "aarch64" else "CPU implementer" in listed
    return other or bool(name and name[1].startswith("qemu"))


def tvm_package(files: Mapping[str, str]) -> str | None:
    """Directory of the Python package that the server's TVM runtime was loaded from."""
    found = re.search(r"(/\S.*)/lib/libtvm_runtime\.so$", files.get(_MAPS, ""), re.MULTILINE)
    return found[1] if found else None


def version_in(source: str) -> str | None:
    """The version in a ``_version.py``."""
    found = re.search(r"^__version__ = (?:version = )?['\"]([^'\"]+)['\"]", source, re.MULTILINE)
    return found[1] if found else None


def _numbers(text: str) -> list[int]:
    """``0-2,5`` as numbers."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found.extend(range(int(first), int(last or first) + 1))
    return found


@contextmanager
def _tree(files: Mapping[str, str]) -> Generator[Path]:
    """Files of a device under a directory of ours."""
    with tempfile.TemporaryDirectory(prefix="hwprune-device-") as scratch:
        for path, text in files.items():
            if text:
                place = Path(scratch) / path.lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text)
        yield Path(scratch)
