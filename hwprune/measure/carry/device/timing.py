"""One run over everything in the bundle that has not been timed yet."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwprune.measure.carry.device.journal import FAILURE, FASTER, KERNEL, NETWORK, SENTINEL, VERDICT, Journal
from hwprune.measure.carry.device.machine import utc_now
from hwprune.measure.carry.device.runner import BundleRunner
from hwprune.measure.carry.device.worker import KernelError
from hwprune.measure.pace import Pace
from hwprune.measure.sampling import Sampled
from hwprune.measure.sentinel import DRIFT_LIMIT, Sentinel
from hwprune.measure.series import unmet
from hwprune.measure.stopping import MeasureProfile
from hwprune.measure.watch import Watch

#: Kernels that are timed in turn, pass after pass, and a look at the sentinel after each pass.
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
        self._slice = self._profile.one_pass()
        self._pace = Pace()
        self._sentinel = Sentinel(lambda: self._time(bundle["sentinel"]), self._profile.passes)
        self._sentinel.reference = journal.state.reference
        self._watch = Watch(runner, self._profile.max_disturbance)
        self._random = random.Random(int(bundle["seed"]) + len(journal.state.sessions))
        #: Disturbed passes that a batch may repeat: in general, and in the next one.
        self._retries = self._patience = self._profile.passes
        self._done = self._total = 0

    def run(self) -> None:
        """Time what is missing, failed or disturbed.

        Raises
        ------
        KernelError
            The runtime cannot be loaded, or not even the sentinel can be timed.
        """
        state = self._journal.state
        unjudged = state.unjudged()
        todo = [k for k in self._bundle["kernels"] if self._wants_more(k)]
        networks = [n for n in self._bundle["networks"] if not state.good_network(n["name"])]
        self._total = len(todo) + len(networks)
        if not todo and not networks:
            return
        try:
            self._runner.check_runtime()
            self._find_reference(state.reference)
            if unjudged:
                self._journal.add(VERDICT, digests=unjudged, why=self._drifted())
                todo = [kernel for kernel in todo if self._wants_more(kernel)]
            self._random.shuffle(todo)  # drift becomes noise, not a false staircase
            self._total = len(todo) + len(networks)
            for start in range(0, len(todo), BATCH):
                self._batch({kernel["digest"]: kernel for kernel in todo[start : start + BATCH]})
            if networks:
                self._time_networks(networks)
        finally:
            self._runner.close()

    def observed(self) -> dict[str, Any]:
        """The machine's state in this session; see :meth:`hwprune.measure.watch.Watch.to_dict`."""
        return dict(self._watch.to_dict(), sentinel=self._sentinel.to_dict())

    def _wants_more(self, kernel: dict[str, Any]) -> bool:
        """Whether another pass is due; see :meth:`hwprune.measure.series.Series.wants_more`."""
        found = self._journal.state.kernel(kernel["digest"])
        if found.failure is not None or len(found.parts) < self._profile.passes:
            return True
        parts = [Sampled.from_dict(part) for part in found.parts]
        return len(parts) < self._profile.max_passes and unmet(parts, self._profile) is not None

    def _find_reference(self, known: float) -> None:
        """What the sentinel takes, and at which pace of the core; ``known`` of an earlier session."""
        self._tell(0, self._total, "sentinel")
        self._watch.begin()
        timings = self._sentinel.settle()
        unrest = self._watch.end(timings)
        self._pace.learn(timings, known or None)
        timings = [self._pace.steady(timing) for timing in timings]
        if known:
            self._sentinel.reference = known
        else:
            self._sentinel.refer_to(timings)
        self._note_sentinel(timings, unrest)

    def _batch(self, batch: dict[str, dict[str, Any]]) -> None:
        """Time kernels pass after pass, until each has enough good ones or patience ends."""
        patience, seen = self._patience, set()
        while True:
            due = [kernel for kernel in batch.values() if self._wants_more(kernel)]
            if not due:
                self._patience = self._retries
                return
            if self._pass(due, batch, seen) is None:
                continue
            if not patience:
                # Timing again helps against a short disturbance. One that lasts must not double all.
                self._patience = 0
                return
            patience -= 1

    def _pass(
        self, due: list[dict[str, Any]], batch: dict[str, dict[str, Any]], seen: set[str]
    ) -> str | None:
        """Time kernels once more, in an order of its own; what disturbed this pass, if anything did.

        Kernels that fail leave the batch.
        """
        taken: dict[str, Sampled] = {}
        self._watch.begin()
        for kernel in self._random.sample(due, len(due)):
            digest, label = kernel["digest"], kernel["label"]
            try:
                sampled = self._time(kernel)
            except KernelError as error:
                self._journal.add(FAILURE, digest=digest, why=str(error), at=utc_now())
                del batch[digest]
                label += " FAILED"
            else:
                self._journal.add(KERNEL, digest=digest, sampled=sampled.to_dict(), at=utc_now())
                taken[digest] = sampled
            if digest not in seen:
                seen.add(digest)
                self._done += 1
                self._tell(self._done, self._total, label)
        if not taken:
            return None
        change = self._drifted()
        why = self._watch.end(list(taken.values())) or change
        self._journal.add(VERDICT, digests=list(taken), why=why)
        return why

    def _time(self, kernel: dict[str, Any]) -> Sampled:
        return self._pace.steady(self._runner.measure(Path(kernel["file"]), self._slice))

    def _drifted(self) -> str | None:
        """What the sentinel says against the kernels that were just timed.

        A machine that is faster now than it was at the reference was disturbed then: what was timed
        before is disturbed, and from now on the faster time is the reference.
        """
        try:
            change, timings = self._sentinel.change(self._done)
        except KernelError as error:
            return f"the sentinel kernel failed: {error}"
        why = f"the sentinel kernel drifted by {change:+.0%}"
        if change < -DRIFT_LIMIT:
            self._sentinel.reference *= 1 + change
            self._note_sentinel(timings, None)
            self._journal.add(FASTER, why=f"{why} since")
            return why
        slower = why if change > DRIFT_LIMIT else None
        self._note_sentinel(timings, slower)
        return slower

    def _note_sentinel(self, timings: list[Sampled], disturbed: str | None) -> None:
        self._journal.add(
            SENTINEL,
            at=utc_now(),
            parts=[timing.to_dict() for timing in timings],
            reference=self._sentinel.reference,
            disturbed=disturbed,
        )

    def _time_networks(self, networks: list[dict[str, Any]]) -> None:
        self._tell(self._done, self._total, f"{len(networks)} networks")
        profile = MeasureProfile.from_dict(self._bundle["network_profile"])
        files = {network["name"]: network["file"] for network in networks}
        samples, failed, unrest = self._runner.time_networks(
            files, profile, lambda names: self._random.sample(names, len(names))
        )
        why = self._drifted()
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
