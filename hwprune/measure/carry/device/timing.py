"""One run over everything in the bundle that has not been timed yet."""

from __future__ import annotations

import random
import statistics
from typing import Any, Callable  # noqa: UP035 - Python 3.8

from hwprune.measure.carry.device.journal import FAILURE, FASTER, KERNEL, NETWORK, SENTINEL, VERDICT, Journal
from hwprune.measure.carry.device.machine import utc_now
from hwprune.measure.carry.device.worker import KernelError, KernelProcess
from hwprune.measure.guard import DRIFT_LIMIT, CoreTimes, disturbance, drift, read_core_times

#: Kernels between two looks at the sentinel.
BATCH = 32
#: Timings of the sentinel whose median is the reference.
SENTINEL_TIMINGS = 3
#: A child that has not loaded the runtime after this long never will.
START_TIMEOUT_S = 60.0

Tell = Callable[[int, int, str], None]


class CarriedSweep:
    """Times the kernels and networks of a bundle in random order, a batch at a time.

    Parameters
    ----------
    bundle
        The payload of its manifest.
    journal
        Takes the results; what it holds already is left out.
    cores
        Cores that children are pinned to.
    start_child
        Makes a process for kernels.
    tell
        Called with (done, total, label).
    """

    def __init__(
        self,
        bundle: dict[str, Any],
        journal: Journal,
        cores: list[int],
        start_child: Callable[[], KernelProcess],
        tell: Tell,
    ) -> None:
        self._bundle, self._journal, self._cores, self._tell = bundle, journal, cores, tell
        self._profile: dict[str, Any] = bundle["profile"]
        self._start_child = start_child
        self._child = start_child()
        self._random = random.Random(int(bundle["seed"]) + len(journal.state.sessions))
        self._retries = 1
        self._done = self._total = 0

    def run(self) -> None:
        """Time what is missing, failed or disturbed.

        Raises
        ------
        KernelError
            The runtime cannot be loaded or is of another version, or not even the sentinel can be timed.
        """
        state = self._journal.state
        todo = [kernel for kernel in self._bundle["kernels"] if not state.good(kernel["digest"])]
        networks = [n for n in self._bundle["networks"] if state.networks.get(n["name"], _BAD)["disturbed"]]
        unjudged = state.unjudged()
        self._done, self._total = 0, len(todo) + len(networks)
        if not todo and not networks and not unjudged:
            return
        try:
            self._check_runtime()
            if not state.reference:
                self._find_reference()
            if unjudged:
                self._judge(unjudged, None)
            self._random.shuffle(todo)  # drift becomes noise, not a false staircase
            for start in range(0, len(todo), BATCH):
                self._batch(todo[start : start + BATCH])
            if networks:
                self._time_networks(networks)
        finally:
            self._child.end()

    def _check_runtime(self) -> None:
        wanted = str(self._bundle["versions"]["tvm-ffi"])
        found = str(self._child.request({"do": "about"}, START_TIMEOUT_S)["tvm_ffi"])
        if not wanted.startswith(found):
            raise KernelError(
                f"the runtime in lib/ is tvm_ffi {found}, the kernels were built for {wanted}:"
                " pack the bundle again with the matching libraries"
            )

    def _find_reference(self) -> None:
        self._tell(0, self._total, "sentinel")
        timings = [self._sentinel() for _ in range(SENTINEL_TIMINGS)]
        reference = statistics.median(statistics.median(t["samples_ns"]) for t in timings)
        for timing in timings:
            self._journal.add(SENTINEL, at=utc_now(), sampled=timing, reference=reference)

    def _batch(self, kernels: list[dict[str, Any]]) -> None:
        pending, attempt = kernels, 0
        while True:
            before = self._books()
            timed = [kernel for kernel in pending if self._measure(kernel, first=attempt == 0)]
            why = self._unrest(before, timed)
            last = attempt >= self._retries
            digests = [kernel["digest"] for kernel in timed]
            if not timed or not self._judge(digests, why) or last:
                break
            pending, attempt = timed, attempt + 1
        if attempt and last and timed and self._journal.state.kernels[timed[0]["digest"]]["disturbed"]:
            self._retries = 0  # this unrest lasts: do not double its cost

    def _measure(self, kernel: dict[str, Any], *, first: bool) -> bool:
        try:
            sampled = self._ask(kernel)
        except KernelError as error:
            self._journal.add(FAILURE, digest=kernel["digest"], why=str(error), at=utc_now())
            timed = False
        else:
            self._journal.add(KERNEL, digest=kernel["digest"], sampled=sampled, at=utc_now())
            timed = True
        if first:
            self._done += 1
            self._tell(self._done, self._total, kernel["label"] + ("" if timed else " FAILED"))
        return timed

    def _ask(self, kernel: dict[str, Any]) -> dict[str, Any]:
        keys = ("file", "inputs", "weights", "copies")
        message = dict({key: kernel[key] for key in keys}, do="measure", profile=self._profile)
        return self._child.request(message, float(self._profile["job_timeout_s"]))

    def _sentinel(self) -> dict[str, Any]:
        return self._ask(self._bundle["sentinel"])

    def _books(self) -> CoreTimes | None:
        self._child.start()  # its own time must be in the books
        return read_core_times(self._cores, self._child.pid)

    def _unrest(self, before: CoreTimes | None, timed: list[dict[str, Any]]) -> str | None:
        """What the scheduler's books say against the timings since ``before``."""
        others = disturbance(before, self._books())
        limit = float(self._profile["max_disturbance"])
        if others.share > limit:
            return str(others)
        if int(self._bundle["needs"]["threads"]) > 1:
            return None  # with threads, waiting for each other looks the same
        kernels = [self._journal.state.kernels[kernel["digest"]] for kernel in timed]
        starved = sum(kernel["sampled"]["cpu_share"] < 1 - limit for kernel in kernels)
        if starved <= limit * len(timed):
            return None
        return f"{starved} of {len(timed)} kernels did not get their cores"

    def _judge(self, digests: list[str], why: str | None) -> str | None:
        """Write the verdict on some kernels: ``why``, or what the sentinel says against them."""
        why = self._drifted(digests) or why
        self._journal.add(VERDICT, digests=digests, why=why)
        return why

    def _drifted(self, spared: list[str]) -> str | None:
        """What the sentinel says.

        A machine that is faster now than it was at the reference was disturbed then: what was timed
        before is disturbed, and from now on the faster time is the reference.
        """
        try:
            sampled = self._sentinel()
        except KernelError as error:
            return f"the sentinel kernel failed: {error}"
        reference = self._journal.state.reference
        median = statistics.median(sampled["samples_ns"])
        change = drift(reference, median)
        why = f"the sentinel kernel drifted by {change:+.0%}"
        faster = change < -DRIFT_LIMIT
        self._journal.add(SENTINEL, at=utc_now(), sampled=sampled, reference=median if faster else reference)
        if faster:
            self._journal.add(FASTER, spared=spared, why=f"{why} since")
        return why if abs(change) > DRIFT_LIMIT else None

    def _time_networks(self, networks: list[dict[str, Any]]) -> None:
        """Whole networks in turn, each in a process of its own, so that drift hits all alike."""
        profile = self._bundle["network_profile"]
        timeout = float(profile["job_timeout_s"]) + 60.0
        samples: dict[str, list[float]] = {network["name"]: [] for network in networks}
        numbers: dict[str, int] = {}
        failed: dict[str, str] = {}
        children = {network["name"]: self._start_child() for network in networks}
        before = read_core_times(self._cores, None)
        try:
            for network in networks:
                keys = ("file", "inputs", "weights", "copies")
                message = dict({k: network[k] for k in keys}, do="load", sample_s=profile["sample_s"])
                try:
                    numbers[network["name"]] = children[network["name"]].request(message, timeout)["number"]
                except KernelError as error:
                    failed[network["name"]] = str(error)
            for turn in range(int(profile["rounds"])):
                self._tell(self._done, self._total, f"networks, round {turn + 1} of {profile['rounds']}")
                for name in self._random.sample(sorted(numbers), len(numbers)):
                    if name in failed:
                        continue
                    repeat = int(profile["samples_per_round"]) + 1
                    try:
                        answer = children[name].request(
                            {"do": "time", "number": numbers[name], "repeat": repeat}, timeout
                        )
                    except KernelError as error:
                        failed[name] = str(error)
                    else:  # the first sample after another network had the caches is not counted
                        samples[name].extend(answer["samples_ns"][1:])
        finally:
            for child in children.values():
                child.end()
        steal = disturbance(before, read_core_times(self._cores, None)).steal
        limit = float(profile["max_disturbance"])
        why = f"hypervisor {steal:.0%}" if steal > limit else self._drifted(list(self._journal.state.kernels))
        for network in networks:
            name = network["name"]
            self._journal.add(
                NETWORK,
                name=name,
                at=utc_now(),
                samples_ns=[] if name in failed else samples[name],
                failure=failed.get(name),
                disturbed=failed.get(name) or why,
            )
            self._done += 1
            self._tell(self._done, self._total, f"network {name}")


#: Stands for a network that was never timed.
_BAD: dict[str, Any] = {"disturbed": "not timed"}
