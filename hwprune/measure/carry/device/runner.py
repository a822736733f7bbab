"""Times the libraries of a bundle on this machine, in a process that may be lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hwprune.measure.carry.device.worker import KernelError, KernelProcess
from hwprune.measure.conditions import Conditions, read_conditions
from hwprune.measure.guard import CoreTimes, disturbance, read_core_times
from hwprune.measure.runners.base import Provenance, Unit
from hwprune.measure.sampling import Sampled
from hwprune.measure.stopping import MeasureProfile

#: A child that has not loaded the runtime after this long never will.
START_TIMEOUT_S = 60.0
#: How a library is called.
_CALL = ("file", "inputs", "weights", "copies", "expected")


class BundleRunner:
    """A :class:`hwprune.measure.runners.base.Runner` for the libraries of one bundle.

    Parameters
    ----------
    bundle
        The payload of its manifest.
    cores
        Cores that children are pinned to.
    start_child
        Makes a process for kernels.
    """

    unit: Unit = "ns"
    provenance: Provenance = "measured"

    def __init__(
        self, bundle: dict[str, Any], cores: Sequence[int], start_child: Callable[[], KernelProcess]
    ) -> None:
        self._versions = bundle["versions"]
        self._pace = bundle["pace"] and {key: bundle["pace"][key] for key in _CALL}
        packed = [bundle["sentinel"], *bundle["kernels"], *bundle["networks"]]
        self._packed = {library["file"]: {key: library[key] for key in _CALL} for library in packed}
        self.threads = int(bundle["needs"]["threads"])
        self.cores = list(cores)
        self._start_child = start_child
        self._child = start_child()

    def check_runtime(self) -> None:
        """Load the runtime.

        Raises
        ------
        KernelError
            It cannot be loaded, or is of another version than the kernels were built for.
        """
        wanted = str(self._versions["tvm-ffi"])
        found = str(self._child.request({"do": "about"}, START_TIMEOUT_S)["tvm_ffi"])
        if not wanted.startswith(found):
            raise KernelError(
                f"the runtime in lib/ is tvm_ffi {found}, the kernels were built for {wanted}:"
                " pack the bundle again with the matching libraries"
            )

    def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
        """Time one library, named as in the manifest.

        Raises
        ------
        KernelError
            It crashed, hung, could not be loaded or returned wrong values.
        """
        message = dict(self._packed[library.as_posix()], profile=profile.to_dict(), pace=self._pace)
        message["do"] = "measure"
        return Sampled.from_dict(self._child.request(message, profile.job_timeout_s))

    def core_times(self) -> CoreTimes | None:
        """The scheduler's books of the measuring cores, where there are any."""
        self._child.start()  # its own time must be in the books
        return read_core_times(self.cores, self._child.pid)

    def conditions(self) -> Conditions:
        """The state of the measuring cores now."""
        return read_conditions(self.cores)

    def close(self) -> None:
        """End the child."""
        self._child.end()

    def time_networks(
        self, files: dict[str, str], profile: MeasureProfile, shuffled: Callable[[list[str]], list[str]]
    ) -> tuple[dict[str, list[float]], dict[str, str], str | None]:
        """Time whole networks in turn, each in a process of its own, so that drift hits all alike.

        Parameters
        ----------
        files
            Library of each network, by name.
        profile
            Says how many rounds and samples.
        shuffled
            A new order for each round.

        Returns
        -------
        tuple
            Nanoseconds per run by name, reasons of failures by name, and what disturbed them all.
        """
        self.close()
        timeout = profile.job_timeout_s + START_TIMEOUT_S
        samples: dict[str, list[float]] = {name: [] for name in files}
        numbers: dict[str, int] = {}
        failed: dict[str, str] = {}
        children = {name: self._start_child() for name in files}
        before = read_core_times(self.cores, None)
        try:
            for name, file in files.items():
                message = dict(self._packed[file], do="load", sample_s=profile.sample_s)
                try:
                    numbers[name] = int(children[name].request(message, timeout)["number"])
                except KernelError as error:
                    failed[name] = str(error)
            for _ in range(profile.rounds):
                for name in shuffled([name for name in files if name not in failed]):
                    ask = {"do": "time", "number": numbers[name], "repeat": profile.samples_per_round + 1}
                    try:
                        answer = children[name].request(ask, timeout)
                    except KernelError as error:
                        failed[name] = str(error)
                    else:  # the first sample after another network had the caches is not counted
                        samples[name].extend(answer["samples_ns"][1:])
        finally:
            for child in children.values():
                child.end()
        # Several processes of ours ran, so only the hypervisor's share is known to be others'.
        steal = disturbance(before, read_core_times(self.cores, None)).steal
        return samples, failed, f"hypervisor {steal:.0%}" if steal > profile.max_disturbance else None
