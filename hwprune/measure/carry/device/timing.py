"""One run over everything in the bundle that has not been timed yet."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwprune.measure.carry.device.journal import FAILURE, FASTER, KERNEL, NETWORK, SENTINEL, VERDICT, Journal
from hwprune.measure.carry.device.machine import utc_now
from hwprune.measure.carry.device.runner import BundleRunner
from hwprune.measure.carry.device.worker import KernelError
from hwprune.measure.guard import drift
from hwprune.measure.sampling import Sampled
from hwprune.measure.sentinel import DRIFT_LIMIT, SENTINEL_TIMINGS
from hwprune.measure.stopping import MeasureProfile
from hwprune.measure.watch import Watch

#: Kernels between two looks at the sentinel.
BATCH = 32


class CarriedSweep:
    """Times the kernels and networks of a bundle in random order, a batch at a time.

    The same steps as :class:`hwprune.measure.sweep.Sweep`, into a journal instead of a table.

    Parameters
    ----------
    bundle
        The payload of its manifest.
    journal
        Takes the results; what it holds already is left out.
    runner
        Times libraries.
    tell
        Called with (done, total, label).
    """

    def __init__(
        self,
        bundle: dict[str, Any],
        journal: Journal,
        runner: BundleRunner,
        tell: Callable[[int, int, str], None],
    ) -> None:
        self._bundle, self._journal, self._runner, self._tell = bundle, journal, runner, tell
        self._profile = MeasureProfile.from_dict(bundle["profile"])
        self._watch = Watch(runner, self._profile.max_disturbance)
        self._random = random.Random(int(bundle["seed"]) + len(journal.state.sessions))
        self._retries = 1
        self._done = self._total = 0

    def run(self) -> None:
        """Time what is missing, failed or disturbed.

        Raises
        ------
        KernelError
            The runtime cannot be loaded, or not even the sentinel can be timed.
        """
        state = self._journal.state
        todo = [kernel for kernel in self._bundle["kernels"] if not state.good(kernel["digest"])]
        networks = [n for n in self._bundle["networks"] if not state.good_network(n["name"])]
        unjudged = state.unjudged()
        self._total = len(todo) + len(networks)
        if not todo and not networks and not unjudged:
            return
        try:
            self._runner.check_runtime()
            if not state.reference:
                self._find_reference()
            if unjudged:
                self._journal.add(VERDICT, digests=unjudged, why=self._drifted(unjudged))
            self._random.shuffle(todo)  # drift becomes noise, not a false staircase
            for start in range(0, len(todo), BATCH):
                self._batch(todo[start : start + BATCH])
            if networks:
                self._time_networks(networks)
        finally:
            self._runner.close()

    def observed(self) -> dict[str, Any]:
        """The machine's state in this session; see :meth:`hwprune.measure.watch.Watch.to_dict`."""
        return self._watch.to_dict()

    def _find_reference(self) -> None:
        self._tell(0, self._total, "sentinel")
        self._watch.begin()
        timings = [self._time(self._bundle["sentinel"]) for _ in range(SENTINEL_TIMINGS)]
        unrest = self._watch.end(timings)
        reference = statistics.median(statistics.median(t.samples_ns) for t in timings)
        for timing in timings:
            self._note_sentinel(timing, reference, unrest)

    def _batch(self, kernels: list[dict[str, Any]]) -> None:
        pending = kernels
        for attempt in range(self._retries + 1):
            self._watch.begin()
            timed = {kernel["digest"]: self._measure(kernel, first=attempt == 0) for kernel in pending}
            good = {digest: sampled for digest, sampled in timed.items() if sampled is not None}
            if not good:
                return
            change = self._drifted(list(good))
            why = self._watch.end(list(good.values())) or change
            self._journal.add(VERDICT, digests=list(good), why=why)
            if why is None:
                return
            pending = [kernel for kernel in pending if kernel["digest"] in good]
        self._retries = 0  # this unrest lasts: do not double its cost

    def _measure(self, kernel: dict[str, Any], *, first: bool) -> Sampled | None:
        sampled = None
        try:
            sampled = self._time(kernel)
        except KernelError as error:
            self._journal.add(FAILURE, digest=kernel["digest"], why=str(error), at=utc_now())
        else:
            self._journal.add(KERNEL, digest=kernel["digest"], sampled=sampled.to_dict(), at=utc_now())
        if first:
            self._done += 1
            self._tell(self._done, self._total, kernel["label"] + (" FAILED" if sampled is None else ""))
        return sampled

    def _time(self, kernel: dict[str, Any]) -> Sampled:
        return self._runner.measure(Path(kernel["file"]), self._profile)

    def _drifted(self, spared: list[str]) -> str | None:
        """What the sentinel says against the kernels that were just timed.

        A machine that is faster now than it was at the reference was disturbed then: what was timed
        before is disturbed, and from now on the faster time is the reference.
        """
        try:
            sampled = self._time(self._bundle["sentinel"])
        except KernelError as error:
            return f"the sentinel kernel failed: {error}"
        reference = self._journal.state.reference
        median = statistics.median(sampled.samples_ns)
        change = drift(reference, median)
        why = f"the sentinel kernel drifted by {change:+.0%}"
        if change < -DRIFT_LIMIT:
            self._note_sentinel(sampled, median, None)
            self._journal.add(FASTER, spared=spared, why=f"{why} since")
            return why
        slower = why if change > DRIFT_LIMIT else None
        self._note_sentinel(sampled, reference, slower)
        return slower

    def _note_sentinel(self, sampled: Sampled, reference: float, disturbed: str | None) -> None:
        self._journal.add(
            SENTINEL, at=utc_now(), sampled=sampled.to_dict(), reference=reference, disturbed=disturbed
        )

    def _time_networks(self, networks: list[dict[str, Any]]) -> None:
        self._tell(self._done, self._total, f"{len(networks)} networks")
        profile = MeasureProfile.from_dict(self._bundle["network_profile"])
        files = {network["name"]: network["file"] for network in networks}
        samples, failed, unrest = self._runner.time_networks(
            files, profile, lambda names: self._random.sample(names, len(names))
        )
        why = self._drifted(list(self._journal.state.kernels))
        for name in files:
            self._journal.add(
                NETWORK,
                name=name,
                at=utc_now(),
                samples_ns=[] if name in failed else samples[name],
                failure=failed.get(name),
                disturbed=unrest or why,
            )
            self._done += 1
            self._tell(self._done, self._total, f"network {name}")
