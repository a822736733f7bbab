"""Where kernels run: one place that knows its device, and how things are built and timed there.

Planner and profiler ask a *site* for everything that has to do with a device, so that they need not
know whether it is this machine or one that is reached in some other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from hwprune.errors import TargetError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.program import Program
from hwprune.measure.backend import backend_of
from hwprune.measure.build import Builder, BuildPool
from hwprune.measure.device import Device, describe_device
from hwprune.measure.judge import Judge, LocalJudge
from hwprune.measure.network import time_libraries
from hwprune.measure.runners.base import Runner
from hwprune.measure.runners.local import LocalRunner
from hwprune.measure.stats import Summary
from hwprune.measure.stopping import MeasureProfile
from hwprune.measure.values import Checker, CheckPool
from hwprune.target import Target, require_runnable


class Site(Protocol):
    """A place where kernels and networks are timed. What it hands out is closed by whoever asked."""

    @property
    def name(self) -> str:
        """For messages: ``this machine``, or the device's address."""
        ...

    @property
    def shared(self) -> bool:
        """Whether others may want the devices between two sweeps, so that runners are closed after each."""
        ...

    def require(self, target: Target) -> None:
        """Refuse a target that cannot be timed here, before anything is built for it.

        Raises
        ------
        TargetError
            Saying what is missing.
        MeasureError
            The device cannot be reached.
        """
        ...

    def device(self) -> Device:
        """What the numbers come from.

        Raises
        ------
        MeasureError
            The device cannot be reached.
        """
        ...

    def reached(self) -> Mapping[str, str]:
        """How the device is reached, for a table's provenance: ``runner``, addresses, key."""
        ...

    def builder(self, target: Target) -> Builder:
        """Builds kernel libraries that this site's runner can run."""
        ...

    def runner(self, target: Target) -> Runner:
        """Times kernel libraries, on all devices of the site if there are several."""
        ...

    def checker(self, target: Target) -> Checker | None:
        """Compares what built libraries return with PyTorch; None where that cannot be done."""
        ...

    def judge(self, target: Target) -> AbstractContextManager[Judge]:
        """Races forms of a kernel for a search.

        Raises
        ------
        UsageError
            Searches cannot be made here.
        """
        ...

    def build_network(
        self, program: Program, target: Target, path: Path, choices: ChoiceTable | None = None
    ) -> None:
        """Build a whole network for :meth:`time_networks`."""
        ...

    def time_networks(
        self, libraries: Mapping[str, Path], target: Target, *, profile: MeasureProfile, seed: int = 0
    ) -> dict[str, Summary]:
        """Time built networks end to end, interleaved; nanoseconds per run, by the same names.

        Raises
        ------
        MeasureError
            A network crashed, hung, or could not be loaded.
        """
        ...


#: How a device of a kind of runner is reached.
_REACH = {
    "rpc": "start `python -m tvm.exec.rpc_server` on the device and give its address with --rpc HOST:PORT, or"
    " that of a tracker with --tracker HOST:PORT --key NAME (HWPRUNE_RPC, or HWPRUNE_TRACKER and"
    " HWPRUNE_RPC_KEY); or ",
}
_ALONE = (
    "compile for it with `hwprune compile --no-check`, and time the bundle on the device with its run.py;"
    " or, on the device itself, use --target host"
)


class LocalSite:
    """This machine."""

    name = "this machine"
    shared = False

    def require(self, target: Target) -> None:
        """See :class:`Site`."""
        if target.runner != "local":
            raise TargetError(
                f"target '{target.name}' cannot be timed on this machine: its runner is '{target.runner}'",
                hint=_REACH.get(target.runner, "") + _ALONE,
            )
        require_runnable(target)

    def device(self) -> Device:
        """See :class:`Site`."""
        return describe_device()

    def reached(self) -> Mapping[str, str]:
        """See :class:`Site`."""
        return {"runner": "local"}

    def builder(self, target: Target) -> Builder:
        """See :class:`Site`."""
        return BuildPool(target, function=backend_of(target).kernel_function)

    def runner(self, target: Target) -> Runner:
        """See :class:`Site`."""
        return LocalRunner(target.threads, engine=backend_of(target).engine)

    def checker(self, target: Target) -> Checker | None:
        """See :class:`Site`."""
        run = backend_of(target).run
        return CheckPool(target, run=run) if run else None

    def judge(self, target: Target) -> AbstractContextManager[Judge]:
        """See :class:`Site`."""
        return LocalJudge(target)

    def build_network(
        self, program: Program, target: Target, path: Path, choices: ChoiceTable | None = None
    ) -> None:
        """See :class:`Site`."""
        backend_of(target).build_network(program, target, path, choices)

    def time_networks(
        self, libraries: Mapping[str, Path], target: Target, *, profile: MeasureProfile, seed: int = 0
    ) -> dict[str, Summary]:
        """See :class:`Site`."""
        return time_libraries(
            libraries,
            threads=target.threads,
            profile=profile,
            seed=seed,
            engine=backend_of(target).engine,
        )
