"""The first look at remote devices: what they are, and whether they fit."""

from __future__ import annotations

import atexit
import importlib.metadata
import logging
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from hwprune.compile.link import target_architecture
from hwprune.errors import DeviceLostError, MeasureError, TargetError
from hwprune.measure.device import Device
from hwprune.measure.process import WorkerProcess
from hwprune.measure.runners.rpc import RpcRunner
from hwprune.measure.runners.rpc_address import RpcPlace
from hwprune.measure.runners.rpc_door import Door, doors
from hwprune.measure.runners.rpc_files import (
    description_files,
    device_from,
    is_emulated,
    ranked_cores,
    tvm_package,
    version_in,
)
from hwprune.target import Target, flags_in

PROBE_TIMEOUT_S = 120.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """A kind of device.

    Attributes
    ----------
    device
        As it describes itself.
    flags
        Features of its processor; None where it does not tell.
    cores
        Cores to measure on, the best last; empty where they are unknown.
    probe
        Library that sessions begin with, if there is one.
    emulated
        Whether it is no machine but a program that behaves like one.
    """

    device: Device
    flags: set[str] | None
    cores: tuple[int, ...]
    probe: Path | None
    emulated: bool = False


def look(place: RpcPlace, target: Target) -> Seen:
    """Have every device of a place describe itself.

    Raises
    ------
    TargetError
        A device is of another architecture than the target.
    DeviceLostError
        None can be reached.
    MeasureError
        They are of different kinds, or run another TVM.
    """
    found = doors(place)  # before a second is spent on the probe
    probe = built_probe(target.tvm.get("mtriple"))
    seen: dict[str, Seen] = {}
    failures: list[DeviceLostError] = []
    for door in found:
        try:
            seen[door.name] = _describe(door, target, place.key, probe)
        except DeviceLostError as error:
            failures.append(error)
    if not seen:
        raise failures[0]
    for error in failures:
        _log.warning("%s; measuring without it", error.message)
    kinds = {one.device.slug: name for name, one in seen.items()}
    if len(kinds) > 1:
        listed = "; ".join(f"{name} is a {slug}" for slug, name in kinds.items())
        raise MeasureError(
            f"{place} are devices of different kinds: {listed}",
            hint="a table is of one kind of device: profile each kind by itself",
        )
    return next(iter(seen.values()))


def _describe(door: Door, target: Target, key: str, probe: Path | None) -> Seen:
    runner = RpcRunner(door, 1, probe)
    architecture = target_architecture(target.tvm.get("mtriple"))
    try:
        files = runner.files(list(description_files()))
        package = tvm_package(files)
        source = runner.files([f"{package}/_version.py"]) if package else {}
    except DeviceLostError as error:
        raise DeviceLostError(
            f"device {door.name} cannot be used: {error.message}",
            hint="check the address, and that this TVM's server runs there: python -m tvm.exec.rpc_server",
        ) from error
    except MeasureError as error:
        wanted = f"code for {architecture} (target '{target.name}')"
        raise TargetError(
            f"device {door.name} cannot run {wanted}: {error.message}",
            hint="choose a target of the device's architecture",
        ) from error
    finally:
        runner.close()
    _require_version(door.name, version_in("".join(source.values())))
    cores = tuple(ranked_cores(files))
    emulated = is_emulated(files, architecture)
    if emulated:  # what it tells of its processor is true of the machine below
        files = {path: text for path, text in files.items() if path != "/proc/cpuinfo"}
    cpuinfo = files.get("/proc/cpuinfo")
    device = device_from(files, architecture)
    name = "emulated" if emulated else key or door.name.replace(":", "-")
    slug = device.slug if cpuinfo else f"{name}-{architecture}"
    flags = flags_in(cpuinfo) if cpuinfo else None
    return Seen(replace(device, slug=f"{slug}-rpc"), flags, cores, probe, emulated)


@cache
def built_probe(triple: str | None) -> Path | None:
    """The probe for a kind of processor, built once; None where there is none."""
    folder = Path(tempfile.mkdtemp(prefix="hwprune-rpc-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "probe.so"
    function = "hwprune.compile.remote_probe:build_probe"
    message = {"do": "call", "function": function, "arguments": {"triple": triple, "path": str(path)}}
    with WorkerProcess([], 1, "build worker", hidden=["torch"]) as worker:
        try:
            worker.request(message, PROBE_TIMEOUT_S)
        except MeasureError as error:
            _log.warning("remote devices will tell little about themselves: %s", error.message)
            return None
    return path


def _require_version(name: str, theirs: str | None) -> None:
    """Refuse a server of another TVM: the protocol and what kernels call change between releases."""
    ours = importlib.metadata.version("apache-tvm")
    if theirs is None:
        _log.info("device %s does not tell its version of TVM", name)
    elif theirs.split(".post")[0] != ours.split(".post")[0]:
        raise MeasureError(
            f"device {name} runs TVM {theirs}, kernels are built by TVM {ours}",
            hint=f"on the device: pip install apache-tvm=={ours}",
        )
