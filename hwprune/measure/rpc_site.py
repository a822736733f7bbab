"""Devices behind TVM RPC servers, one by one or through a tracker, as a place to measure."""

from __future__ import annotations

import atexit
import importlib.metadata
import logging
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from hwprune.compile.link import host_architecture, target_architecture
from hwprune.errors import DeviceLostError, MeasureError, TargetError, UsageError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.program import Program
from hwprune.measure.backend import TVM, backend_of
from hwprune.measure.build import Builder, BuildPool
from hwprune.measure.device import Device
from hwprune.measure.judge import Judge
from hwprune.measure.process import WorkerProcess
from hwprune.measure.runners.base import Runner
from hwprune.measure.runners.rpc import RpcRunner
from hwprune.measure.runners.rpc_address import RpcPlace
from hwprune.measure.runners.rpc_door import Door, doors
from hwprune.measure.runners.rpc_farm import RpcFarm
from hwprune.measure.runners.rpc_files import (
    description_files,
    device_from,
    measuring_cores,
    tvm_package,
    usable_cores,
    version_in,
)
from hwprune.measure.runners.rpc_networks import time_networks
from hwprune.measure.runners.rpc_tracker import Tracker
from hwprune.measure.stats import Summary
from hwprune.measure.stopping import MeasureProfile
from hwprune.measure.values import Checker, CheckPool
from hwprune.target import Target, cpu_flags, flags_in, missing_flags

PROBE_TIMEOUT_S = 120.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Seen:
    """A device at first sight; ``flags`` None where it does not tell."""

    device: Device
    flags: set[str] | None
    cores: tuple[int, ...]


class RpcSite:
    """Devices of one kind.

    Nothing is reached before something is asked for. Tables of such a site are kept apart from those
    that are measured on the device itself (the slug ends in ``-rpc``): there, weights lie in large
    pages, and another clock is read.

    Parameters
    ----------
    place
        How they are reached.
    target
        What is built for them.
    """

    def __init__(self, place: RpcPlace, target: Target) -> None:
        self.place, self._target = place, target
        self._seen: _Seen | None = None
        self._probe: Path | None = None

    @property
    def name(self) -> str:
        """See :class:`hwprune.measure.site.Site`."""
        return str(self.place)

    def require(self, target: Target) -> None:
        """See :class:`hwprune.measure.site.Site`."""
        if target.kind != "cpu" or backend_of(target) is not TVM:
            raise TargetError(
                f"target '{target.name}' cannot be timed over RPC: only TVM's modules for processors can",
                hint="use a target of kind 'cpu' with TVM as its backend",
            )
        seen = self._look()
        missing = missing_flags(target, seen.flags) if seen.flags is not None else set[str]()
        if missing:
            raise TargetError(
                f"target '{target.name}' needs {', '.join(sorted(missing))}, which {self.name} "
                f"({seen.device.cpu}) lacks",
                hint="choose a target that fits the device, or another device",
            )
        if seen.cores and target.threads > seen.device.cores:
            raise TargetError(
                f"target '{target.name}' asks for {target.threads} threads, {self.name} has "
                f"{seen.device.cores} cores",
                hint=f"use --threads {seen.device.cores} or fewer",
            )

    def device(self) -> Device:
        """See :class:`hwprune.measure.site.Site`."""
        return self._look().device

    def reached(self) -> Mapping[str, str]:
        """See :class:`hwprune.measure.site.Site`."""
        return self.place.reached()

    def builder(self, target: Target) -> Builder:
        """See :class:`hwprune.measure.site.Site`."""
        return BuildPool(target, function=TVM.kernel_function)

    def runner(self, target: Target) -> Runner:
        """See :class:`hwprune.measure.site.Site`."""
        tracker, key = self.place.tracker, self.place.key
        count = None if tracker is None else lambda: Tracker(tracker).keys()[key]
        return RpcFarm(self._runners(target), self.name, count)

    def checker(self, target: Target) -> Checker | None:
        """Libraries are checked on this machine, where it can run them."""
        alike = target_architecture(target.tvm.get("mtriple")) == host_architecture()
        if not alike or missing_flags(target, cpu_flags()) or TVM.run is None:
            return None
        return CheckPool(target, run=TVM.run)

    def judge(self, target: Target) -> AbstractContextManager[Judge]:
        """See :class:`hwprune.measure.site.Site`."""
        raise UsageError(
            f"forms of kernels cannot be searched on {self.name}: races over RPC do not exist yet",
            hint="leave the search out",
        )

    def build_network(
        self, program: Program, target: Target, path: Path, choices: ChoiceTable | None = None
    ) -> None:
        """See :class:`hwprune.measure.site.Site`."""
        TVM.build_network(program, target, path, choices)

    def time_networks(
        self, libraries: Mapping[str, Path], target: Target, *, profile: MeasureProfile, seed: int = 0
    ) -> dict[str, Summary]:
        """See :class:`hwprune.measure.site.Site`."""
        with ExitStack() as stack:
            runners = self._runners(target)
            for runner in runners:
                stack.callback(runner.close)
            return time_networks(libraries, runners, profile, seed)

    def _runners(self, target: Target) -> list[RpcRunner]:
        cores = self._look().cores[-target.threads :]
        return [RpcRunner(door, target.threads, self._probe, cores) for door in doors(self.place)]

    def _look(self) -> _Seen:
        """Have every device describe itself, once.

        Raises
        ------
        TargetError
            A device is of another architecture than the target.
        DeviceLostError
            None can be reached.
        MeasureError
            They are of different kinds, or run another TVM.
        """
        if self._seen is not None:
            return self._seen
        found = doors(self.place)  # before a second is spent on the probe
        self._probe = _built_probe(self._target.tvm.get("mtriple"))
        seen: dict[str, _Seen] = {}
        failures: list[DeviceLostError] = []
        for door in found:
            try:
                seen[door.name] = self._describe(door)
            except DeviceLostError as error:
                failures.append(error)
        for error in failures if seen else ():
            _log.warning("%s; measuring without it", error.message)
        if not seen:
            raise failures[0]
        kinds = {one.device.slug: name for name, one in seen.items()}
        if len(kinds) > 1:
            listed = "; ".join(f"{name} is a {slug}" for slug, name in kinds.items())
            raise MeasureError(
                f"{self.name} are devices of different kinds: {listed}",
                hint="a table is of one kind of device: profile each kind by itself",
            )
        self._seen = next(iter(seen.values()))
        return self._seen

    def _describe(self, door: Door) -> _Seen:
        runner = RpcRunner(door, 1, self._probe)
        architecture = target_architecture(self._target.tvm.get("mtriple"))
        try:
            files = runner.files(list(description_files()))
            package = tvm_package(files)
            source = runner.files([f"{package}/_version.py"]) if package else {}
        except DeviceLostError as error:
            hint = (
                error.hint
                or "check the address, and that this TVM's server runs there: python -m tvm.exec.rpc_server"
            )
            raise DeviceLostError(f"device {door.name} cannot be used: {error.message}", hint=hint) from error
        except MeasureError as error:
            raise TargetError(
                f"device {door.name} cannot run code for {architecture} (target '{self._target.name}'): "
                f"{error.message}",
                hint="choose a target of the device's architecture",
            ) from error
        finally:
            runner.close()
        _require_version(door.name, version_in("".join(source.values())))
        cpuinfo = files.get("/proc/cpuinfo")
        device = device_from(files, architecture)
        slug = device.slug if cpuinfo else f"{self.place.key or door.name.replace(':', '-')}-{architecture}"
        cores = tuple(measuring_cores(files, len(usable_cores(files))))
        return _Seen(replace(device, slug=f"{slug}-rpc"), flags_in(cpuinfo) if cpuinfo else None, cores)


@cache
def _built_probe(triple: str | None) -> Path | None:
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
