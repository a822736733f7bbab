"""Devices behind TVM RPC servers, one by one or through a tracker, as a place to measure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np

from hwprune.compile.link import host_architecture, target_architecture
from hwprune.errors import DeviceLostError, TargetError, UsageError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.program import Program
from hwprune.measure.backend import TVM, backend_of
from hwprune.measure.build import Builder, BuildPool
from hwprune.measure.compare import Comparison
from hwprune.measure.device import Device
from hwprune.measure.judge import Judge
from hwprune.measure.rpc_look import Seen, look
from hwprune.measure.runners.base import Runner
from hwprune.measure.runners.rpc import RpcRunner
from hwprune.measure.runners.rpc_address import RpcPlace
from hwprune.measure.runners.rpc_bundles import compare_bundles, run_bundle
from hwprune.measure.runners.rpc_door import doors
from hwprune.measure.runners.rpc_farm import RpcFarm
from hwprune.measure.runners.rpc_networks import time_networks
from hwprune.measure.runners.rpc_tracker import Tracker
from hwprune.measure.stats import Summary
from hwprune.measure.stopping import MeasureProfile
from hwprune.measure.values import Checker, CheckPool
from hwprune.target import Target, cpu_flags, missing_flags


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

    shared = True

    def __init__(self, place: RpcPlace, target: Target) -> None:
        self.place, self._target = place, target
        self._seen: Seen | None = None

    @property
    def name(self) -> str:
        """See :class:`hwprune.measure.site.Site`."""
        return str(self.place)

    def require(self, target: Target) -> None:
        """See :class:`hwprune.measure.site.Site`."""
        self.require_fit(target)
        if self._look().emulated:
            raise TargetError(
                f"{self.name} is emulated: how long something takes there says nothing about a device",
                hint="let it check results (hwprune compile), and time on a real device",
            )

    def require_fit(self, target: Target) -> None:
        """Refuse a target whose code the devices cannot run, whether they are timed or not.

        Raises
        ------
        TargetError
            Saying what is missing.
        MeasureError
            No device can be reached.
        """
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

    def run_bundle(self, directory: Path, inputs: Sequence[np.ndarray], target: Target) -> list[np.ndarray]:
        """Outputs of a bundle on one of the devices.

        Raises
        ------
        MeasureError
            It could not be loaded or run there.
        """
        with self._one(target) as runner:
            return run_bundle(directory, inputs, runner)

    def compare_bundles(
        self,
        bundles: Mapping[str, Path],
        inputs: Sequence[np.ndarray],
        target: Target,
        *,
        profile: MeasureProfile,
        expected: Mapping[str, Sequence[np.ndarray]] | None = None,
        seed: int = 0,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> Comparison:
        """Time bundles in turn on one of the devices.

        See :func:`hwprune.measure.runners.rpc_bundles.compare_bundles`.
        """
        with self._one(target) as runner:
            return compare_bundles(
                bundles,
                inputs,
                runner,
                profile=profile,
                threads=target.threads,
                expected=expected,
                seed=seed,
                progress=progress,
            )

    @contextmanager
    def _one(self, target: Target) -> Generator[RpcRunner]:
        """The first device that answers; closed at the end."""
        with ExitStack() as stack:
            for runner in self._runners(target):
                stack.callback(runner.close)
                if runner.alive():
                    yield runner
                    return
            raise DeviceLostError(
                f"no device of {self.name} answers", hint="start its server: python -m tvm.exec.rpc_server"
            )

    def _runners(self, target: Target) -> list[RpcRunner]:
        seen = self._look()
        cores = seen.cores[-target.threads :]
        return [RpcRunner(door, target.threads, seen.probe, cores) for door in doors(self.place)]

    def _look(self) -> Seen:
        """Have every device describe itself, once."""
        self._seen = self._seen or look(self.place, self._target)
        return self._seen
